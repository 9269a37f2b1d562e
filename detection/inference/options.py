"""Check the options of prediction before loading anything."""

from collections.abc import Mapping
from typing import Any

import numpy as np

LEAST = {"batch": 1, "size": 1, "short_sides": 1, "tile": 32}
"""Smallest value of each option."""

APART = (("tile", "flip"), ("tile", "short_sides"), ("short_sides", "size"))
"""Pairs of options that cannot be combined: the detector would ignore the second one."""


def check_apart(given: Mapping[str, object], option: str = "") -> None:
    """Check that no two options exclude each other.

    Args:
        given: values by name; an empty value means that the option is not set.
        option: prefix of a name in the message: ``--`` for command-line options.

    Raises:
        ValueError: two options cannot be combined; the message has both names.
    """
    for one, other in APART:
        if given[one] and given[other]:
            first, second = (f"{option}{name.replace('_', '-') if option else name}" for name in (one, other))
            raise ValueError(f"{first} and {second} cannot be combined; remove one of them")


def check_least(options: object, least: Mapping[str, int]) -> None:
    """Check that no value is below the minimum of its option; an option that is not set may be None.

    Raises:
        ValueError: a value is too small; the message has the option and its minimum.
    """
    for name, low in least.items():
        value = getattr(options, name)
        numbers = value if isinstance(value, list) else [value]
        if value is not None and min(numbers) < low:
            raise ValueError(f"--{name.replace('_', '-')} {' '.join(map(str, numbers))}: must be at least {low}")


def size_of(given: Any) -> tuple[int, int]:
    """Return the shortest and the longest side.

    Raises:
        ValueError: the value is not two positive integers.
    """
    shortest, longest = sides("size", given, "(shortest, longest) side", 2)
    return shortest, longest


def sides(name: str, given: Any, form: str, number: int | None = None) -> tuple[int, ...]:
    """Return sides in whole pixels.

    Args:
        name: name of the argument, for the message.
        given: value to check.
        form: expected form, for the message.
        number: expected number of sides; None allows any.

    Raises:
        ValueError: the number of sides is wrong, or a side is not a positive integer.
    """
    array = np.asarray(given)
    if array.ndim != 1 or number not in (None, len(array)) or array.dtype.kind not in "iu" or (array < 1).any():
        raise ValueError(f"{name} {given}: expected {form} in whole pixels, at least 1")
    return tuple(array.tolist())
