"""Numbers on the command lines of the tools that predict, checked before anything is loaded."""

import argparse
from collections.abc import Mapping

LEAST = {"batch": 1, "size": 1, "short_sides": 1, "tile": 32}
"""The least values of the ways to look at an image, by option."""


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
