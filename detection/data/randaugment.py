"""RandAugment with random magnitudes."""

from typing import Any

import torch
from torchvision.transforms import v2


class VariedRandAugment(v2.RandAugment):
    """Two random operations of RandAugment, each with a magnitude of its own from a normal distribution.

    Cubuk et al. 2019, "RandAugment"; Wightman et al. 2021, "ResNet strikes back", table 2, draw the magnitudes. All
    random numbers are from PyTorch's global generator.

    Args:
        magnitude: mean of the magnitudes, from 0 to 30.
        deviation: their standard deviation.
        others: arguments of torchvision's ``RandAugment``.
    """

    def __init__(self, magnitude: int, deviation: float, **others: Any) -> None:
        super().__init__(num_ops=1, magnitude=magnitude, **others)
        self.mean, self.deviation = magnitude, deviation

    def forward(self, *inputs: Any) -> Any:
        """Return the inputs after both operations."""
        for _ in range(2):
            drawn = self.mean + self.deviation * float(torch.randn(()))
            self.magnitude = min(max(round(drawn), 0), self.num_magnitude_bins - 1)
            inputs = (super().forward(*inputs),)
        return inputs[0]
