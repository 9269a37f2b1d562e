"""Text that others wrote: show names of classes and files, keys and values out of files safely, and recognise numbers.

A terminal obeys escape sequences, a browser and a terminal turn text round at bidirectional controls, and a spreadsheet
runs a cell that begins with ``=``.
"""

import unicodedata
from typing import Any

LONGEST = 60
"""Characters that :func:`shown` keeps."""

_JOINERS = "\u200c\u200d"
"""Invisible, but words of Persian and Hindi, and some emoji, need them."""


def shown(text: object, most: int | None = LONGEST) -> str:
    """Text as one line, for a message, a table or a page.

    Controls, bidirectional ones too, become escapes such as ``\\x1b``; the middle of what is longer becomes ``…``.

    Args:
        text: anything that ``str`` takes.
        most: characters to keep; all if None, as for a path that must stay complete.

    Example:
        >>> shown("cat\\x1b[2J")
        'cat\\\\x1b[2J'
    """
    whole = str(text)
    if whole.isprintable() and (most is None or len(whole) <= most):
        return whole  # nearly all
    if most is not None and len(whole) > most * 10:  # a name of a megabyte need not be escaped first
        whole = whole[: most * 5] + whole[-most * 5 :]
    safe = "".join(_escaped(sign) for sign in whole)
    if most is None or len(safe) <= most:
        return safe
    end = (most - 1) // 2
    return safe[: most - 1 - end] + "…" + safe[len(safe) - end :]


def printable(message: object) -> str:
    """A message of several lines, complete, without anything that a terminal obeys."""
    return "\n".join(shown(line, None) for line in str(message).split("\n"))


def cell(value: Any, most: int | None = LONGEST) -> Any:
    """A value for a CSV file: numbers as they are; text as :func:`shown`, and never a formula.

    Spreadsheets take an apostrophe in front as a sign that text follows.
    """
    if value is None or isinstance(value, int | float):
        return value
    safe = shown(value, most)
    begin = unicodedata.normalize("NFKC", safe.lstrip()[:1])  # spreadsheets know wide signs, too
    if begin not in ("=", "+", "-", "@") and str(value)[:1] not in ("\t", "\r", "\n"):
        return safe
    return "'" + (safe if most is None else shown(value, most - 1))


def _escaped(sign: str) -> str:
    if sign.isprintable() or sign in _JOINERS or unicodedata.category(sign) == "Zs":
        return sign
    return sign.encode("unicode_escape").decode()


def is_number(text: str) -> bool:
    """Return whether Python can read a text as a number, such as ``-1``, ``2e-4`` or ``nan``."""
    try:
        float(text)
    except ValueError:
        return False
    return True
