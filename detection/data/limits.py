"""Checks of settings that several transforms have."""

from collections.abc import Sequence


def check_probability(name: str, p: float) -> None:
    """Reject a setting that is no probability.

    Raises:
        ValueError: with the name and the value.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"{name} {p} must be a probability, from 0 to 1")


def check_size(name: str, size: Sequence[int]) -> None:
    """Reject a height and width of which one is empty.

    Raises:
        ValueError: with the name and the value.
    """
    if min(size) < 1:
        raise ValueError(f"{name} {list(size)} must be a height and a width of at least 1 pixel")
