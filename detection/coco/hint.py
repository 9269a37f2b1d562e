"""What is likely wrong with an annotation file as a whole."""

from dataclasses import dataclass

WIDESPREAD = 0.1
"""A kind that touches a larger share than this is never harmless."""


@dataclass(frozen=True)
class Hint:
    """What is likely wrong with a file as a whole."""

    text: str
    grave: bool = False
    """It touches more than a tenth of the objects."""
    unusable: bool = False
    """Nothing can be learned from the file, or scored against it."""
