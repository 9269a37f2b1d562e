"""What the routes give to the steps of an image, and what they get back."""

from dataclasses import dataclass
from typing import Literal

Format = Literal[".jpg", ".png"]
"""Format of an image with the objects drawn in."""


@dataclass(frozen=True)
class Asked:
    """A request."""

    data: bytes
    """Content of an image file."""
    began: float
    """When it came, by ``time.monotonic``."""
    score: float | None = None
    """Smallest score of a detection; None: the thresholds of the server."""
    classes: tuple[str, ...] = ()
    """Classes to keep; empty: all."""
    picture: Format | None = None
    """Format of a drawn image; None: JSON."""


@dataclass(frozen=True)
class Answer:
    """A response."""

    body: bytes
    media: str
