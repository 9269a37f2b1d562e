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
    may_gain: bool = False
    """Whether any higher AP passes."""

    @property
    def passed(self) -> bool:
        """Whether no AP differs by more than allowed; NaN does not pass."""
        losses = [value - self.theirs[kind] for kind, value in self.ours.items()]
        return all(loss <= self.most and (self.may_gain or -loss <= self.most) for loss in losses)

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


@dataclass(frozen=True)
class Quantised:
    """What an INT8 export computes in integers, and what this costs on the images that decided it."""

    layers: int
    """Number of layers in INT8."""
    float_layers: tuple[str, ...]
    """Names of the layers that stay in float32."""
    images: int
    """Number of images that decided."""
    change: dict[str, tuple[float, float, float]]
    """Change of AP by kind, with the 95 % interval over paired bootstrap samples; NaN becomes 0."""
