"""What commands print: notes and errors on stderr, summaries as JSON."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

_results: TextIO | None = None
"""Where JSON goes while everything else that is printed goes to stderr."""


def write_json(summary: object, place: str | None) -> None:
    """Write a summary as JSON to a file, or to stdout for ``-``; write nothing for None."""
    if place is None:
        return
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    if place == "-":
        print(text, file=_results)
        return
    os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
    with open(place, "w", encoding="utf-8") as file:
        file.write(text + "\n")


@contextmanager
def json_alone(place: str | None) -> Iterator[None]:
    """Keep stdout for the JSON of :func:`write_json` if it goes there: all other lines go to stderr."""
    global _results
    if place != "-":
        yield
        return
    _results = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results = None


def note(message: str) -> None:
    """Print a line on stderr, apart from the results."""
    from detection.foreign import printable

    print(printable(message), file=sys.stderr)


def fail(message: str, code: int = 2) -> int:
    """Print an error in one line; return its exit code."""
    note(f"error: {message}")
    return code
