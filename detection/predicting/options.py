"""Ways to look at an image, checked before anything is loaded."""

import argparse
from collections.abc import Mapping

LEAST = {"batch": 1, "size": 1, "short_sides": 1, "tile": 32}
"""The least values of the ways to look at an image, by option."""

APART = (("tile", "flip"), ("tile", "short_sides"), ("short_sides", "size"))
"""Ways to look at an image that do not go together, by option: the second of a pair would be ignored."""


def check_apart(given: Mapping[str, object], option: str = "") -> None:
    """Refuse ways to look at an image that do not go together.

    Args:
        given: by name; an empty one is not given.
        option: what stands before a name where it is told: ``--`` for options of a command line.

    Raises:
        ValueError: with both.
    """
    for one, other in APART:
        if given[one] and given[other]:
            first, second = (f"{option}{name.replace('_', '-') if option else name}" for name in (one, other))
            raise ValueError(f"{first} and {second} do not go together; leave one of them out")


def check_least(options: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Refuse what is below the least value of its option; an option that is not given may be None.

    Raises:
        ValueError: with the option, and what it may be.
    """
    for name, low in least.items():
        value = getattr(options, name)
        numbers = value if isinstance(value, list) else [value]
        if value is not None and min(numbers) < low:
            raise ValueError(f"--{name.replace('_', '-')} {' '.join(map(str, numbers))}: must be at least {low}")
