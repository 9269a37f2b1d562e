"""A hint about a likely problem of a whole annotation file."""

from dataclasses import dataclass

WIDESPREAD = 0.1
"""A problem that affects a larger fraction than this is widespread, and the toolkit always warns about it."""


@dataclass(frozen=True)
class Hint:
    """A likely problem of a whole file."""

    text: str
    grave: bool = False
    """Whether it affects more than a tenth of the objects."""
    unusable: bool = False
    """Whether the file is useless for training and evaluation."""
