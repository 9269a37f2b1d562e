"""Show text from files safely: names of classes and files, keys and values; recognise numbers.

A terminal executes escape sequences, bidirectional controls reorder text in browsers and terminals, and a spreadsheet
runs a cell that begins with ``=``.
"""

import unicodedata
from typing import Any

LONGEST = 60
"""Default maximum number of characters of :func:`shown`."""

_JOINERS = "\u200c\u200d"
"""Invisible joiners, which words of Persian and Hindi and some emoji need."""


def shown(text: object, most: int | None = LONGEST) -> str:
    """Return text as one safe line, for a message, a table or a page.

    Replace control characters, including bidirectional ones, by escapes such as ``\\x1b``. If the text is too long,
    replace its middle by ``…``.

    Args:
        text: any object; the function shows ``str(text)``.
        most: maximum number of characters; None: no limit, for example for a path that must be complete.

    Example:
        >>> shown("cat\\x1b[2J")
        'cat\\\\x1b[2J'
    """
    whole = str(text)
    if whole.isprintable() and (most is None or len(whole) <= most):
        return whole  # nearly all texts
    if most is not None and len(whole) > most * 10:  # to save time with names of megabytes
        whole = whole[: most * 5] + whole[-most * 5 :]
    safe = "".join(_escaped(sign) for sign in whole)
    if most is None or len(safe) <= most:
        return safe
    end = (most - 1) // 2
    return safe[: most - 1 - end] + "…" + safe[len(safe) - end :]


def printable(message: object) -> str:
    """Return a complete message of several lines, with all control characters escaped."""
    return "\n".join(shown(line, None) for line in str(message).split("\n"))


def cell(value: Any, most: int | None = LONGEST) -> Any:
    """Return a value for a CSV file: numbers unchanged; text as from :func:`shown`, and never a formula.

    An apostrophe before text that looks like a formula makes spreadsheets read it as text.
    """
    if value is None or isinstance(value, int | float):
        return value
    safe = shown(value, most)
    begin = unicodedata.normalize("NFKC", safe.lstrip()[:1])  # spreadsheets also accept full-width signs
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
