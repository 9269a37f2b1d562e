"""Score thresholds that belong to a detector: chosen on validation data, one for each class.

K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds of the classes, and how they were chosen.

    Raises:
        ValueError: a value is outside its range, or the lists have different lengths.
    """

    rule: str
    """``best-f1``, ``precision=0.9`` or ``recall=0.8``."""
    scores: Sequence[float | None]
    """(K,) for each class the smallest score of a detection; None: not known, because the data have no object of it."""
    low: Sequence[float | None]
    """(K,) lower ends of the 95 % intervals over bootstrap samples of the images."""
    high: Sequence[float | None]
    """(K,) upper ends."""
    images: int
    """Number of images of the validation data."""
    temperature: float | None = None
    """Divisor of the logit of a score, which calibrates it; None: scores stay."""

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.low) == len(self.high):
            raise ValueError("thresholds: scores, low and high must have the same length")
        if any(value is not None and not 0 <= value <= 1 for value in (*self.scores, *self.low, *self.high)):
            raise ValueError("thresholds: a score is outside 0 to 1")
        if self.temperature is not None and not 0.01 <= self.temperature <= 100:
            raise ValueError(f"thresholds: temperature is {self.temperature}; it must be from 0.01 to 100")

    def of_classes(self, default: float) -> Tensor:
        """Return the threshold of each class, (K,) float32; a default for those not known."""
        return torch.tensor([default if score is None else score for score in self.scores], dtype=torch.float32)

    def calibrated(self, scores: Tensor) -> Tensor:
        """Return calibrated scores, (n,); their order stays."""
        if self.temperature is None:
            return scores
        return (scores.double().clamp(1e-9, 1 - 1e-9).logit() / self.temperature).sigmoid().to(scores.dtype)
