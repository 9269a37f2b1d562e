"""AP of a detector and of its export on annotated images."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from detection.models.detector import Detector


@dataclass(frozen=True)
class Accuracy:
    """AP on the same images, by kind: ``bbox`` and, with masks, ``segm``."""

    images: int
    """Number of annotated images."""
    ours: dict[str, float]
    """Of the detector."""
    theirs: dict[str, float]
    """Of its export."""
    most: float = 1e-3
    """Largest difference that passes."""

    @property
    def passed(self) -> bool:
        """Whether no AP differs by more than allowed; NaN does not pass."""
        return all(abs(self.theirs[kind] - value) <= self.most for kind, value in self.ours.items())

    def line(self) -> str:
        """Return AP in percent as text."""
        rows = (f"{kind} AP {100 * ap:.2f}, export {100 * self.theirs[kind]:.2f}" for kind, ap in self.ours.items())
        return "; ".join(rows)


class Annotated(Protocol):
    """Annotated images."""

    def samples(self) -> list[tuple[str, np.ndarray]]:
        """Return name and pixels of some images."""

    def compare(self, model: Detector, exported: Detector) -> Accuracy:
        """Return AP of both on all images."""
