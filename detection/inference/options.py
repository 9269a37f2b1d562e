"""Options for how to look at an image, checked before anything is loaded."""

from collections.abc import Mapping
from typing import Any

import numpy as np

LEAST = {"batch": 1, "size": 1, "short_sides": 1, "tile": 32}
"""The least value of each option."""

APART = (("tile", "flip"), ("tile", "short_sides"), ("short_sides", "size"))
"""Pairs of options that do not go together: the detector would ignore the second one."""


def check_apart(given: Mapping[str, object], option: str = "") -> None:
    """Refuse options that do not go together.

    Args:
        given: by name; an empty one is not given.
        option: stands before a name in the message: ``--`` for options of a command line.

    Raises:
        ValueError: with both names.
    """
    for one, other in APART:
        if given[one] and given[other]:
            first, second = (f"{option}{name.replace('_', '-') if option else name}" for name in (one, other))
            raise ValueError(f"{first} and {second} do not go together; leave one of them out")


def check_least(options: object, least: Mapping[str, int]) -> None:
    """Refuse a value below the least one of its option; an option that is not given may be None.

    Raises:
        ValueError: with the option and its least value.
    """
    for name, low in least.items():
        value = getattr(options, name)
        numbers = value if isinstance(value, list) else [value]
        if value is not None and min(numbers) < low:
            raise ValueError(f"--{name.replace('_', '-')} {' '.join(map(str, numbers))}: must be at least {low}")


def size_of(given: Any) -> tuple[int, int]:
    """Return the shortest and the longest side.

    Raises:
        ValueError: not two whole numbers from 1 on.
    """
    shortest, longest = sides("size", given, "(shortest, longest) side", 2)
    return shortest, longest


def sides(name: str, given: Any, form: str, number: int | None = None) -> tuple[int, ...]:
    """Return sides in whole pixels.

    Args:
        name: of the argument, for the message.
        form: what is expected, for the message.
        number: how many sides there must be; any number if None.

    Raises:
        ValueError: another number of sides, or a side that is not a whole number from 1 on.
    """
    array = np.asarray(given)
    if array.ndim != 1 or number not in (None, len(array)) or array.dtype.kind not in "iu" or (array < 1).any():
        raise ValueError(f"{name} {given}: expected {form} in whole pixels, at least 1")
    return tuple(array.tolist())
