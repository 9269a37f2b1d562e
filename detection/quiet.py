"""The switch ``--quiet`` of all commands: no lines on stdout and no progress bars; warnings and errors still appear."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_quiet = False


def is_quiet() -> bool:
    """Return whether progress should not be shown."""
    return _quiet


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Drop what is printed on stdout or logged as information; ``wanted=False`` changes nothing."""
    global _quiet
    if not wanted:
        yield
        return
    before, level, _quiet = _quiet, logging.root.manager.disable, True
    logging.disable(max(level, logging.INFO))
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        _quiet = before
        logging.disable(level)
