"""The semantic head: the class of every pixel, from the pyramid's levels P2 to P5.

B images   K semantic classes   H x W canvas.
Kirillov et al. 2019 (Panoptic feature pyramid networks), section 3 and figure 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.conv_stack import ConvStack
from detection.ops.semantic import upsampled_cross_entropy
from detection.structures import UNLABELLED, Targets

MOST_CLASSES = UNLABELLED
"""Largest number of semantic classes; maps have one byte per pixel, of which one value means "no label"."""


@dataclass(frozen=True)
class SemanticHeadConfig:
    """Layers and loss of the semantic head."""

    channels: int = 128
    """Channels of its convolutions."""
    norm: Literal["batch", "sync", "group"] | None = "group"
    """Norm after each of its 3x3 convolutions."""
    loss_weight: float = 1.0
    """Factor of its loss; 0.5 in the recipes of Panoptic FPN."""
    stuff: Sequence[str] = ()
    """Panoptic FPN: names of the classes that are not objects; empty: those of the data, or only background."""
    stuff_ids: Sequence[int] = ()
    """Panoptic FPN: original IDs of the stuff classes; empty: those of the data."""
    overlap: float = 0.5
    """Panoptic FPN: drop an object if others hide more than this fraction of its mask."""
    stuff_area: int = 4096
    """Panoptic FPN: drop a region of stuff of fewer pixels."""
    score: float = 0.5
    """Panoptic FPN: drop objects with a lower score."""


class SemanticHead(nn.Module):
    """Bring levels to the finest one by 3x3 convolutions and enlargement by two, add them, and predict classes.

    Args:
        channels: channels of the pyramid.
        num_classes: K.
        strides: strides of the levels, finest first; each is the one before times a power of two.
        config: layers and loss.

    Raises:
        ValueError: there are more classes than a map can hold.
    """

    loss_names = ("loss_semantic",)

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: SemanticHeadConfig) -> None:
        super().__init__()
        if not 1 <= num_classes <= MOST_CLASSES:
            raise ValueError(f"there are {num_classes} semantic classes; a semantic head has 1 to {MOST_CLASSES}")
        self.num_classes, self.strides, self.config = num_classes, tuple(strides), config
        width, norm = config.channels, config.norm
        doublings = [(stride // self.strides[0]).bit_length() - 1 for stride in self.strides]
        self.levels = nn.ModuleList(
            nn.ModuleList(ConvStack(width if i else channels, [width], norm) for i in range(max(1, times)))
            for times in doublings
        )
        self.logits = nn.Conv2d(width, num_classes, 1)
        nn.init.kaiming_normal_(self.logits.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.logits.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, K, H / stride, W / stride) at the finest level.

        Args:
            features: P2..P5, and perhaps levels above, which are not used.
        """
        x = self.level(0, features[0])
        for number in range(1, len(self.levels)):
            x = x + self.level(number, features[number])
        return self.logits(x)  # type: ignore[no-any-return]

    def level(self, number: int, x: Tensor) -> Tensor:
        """Return a level at the size of the finest one."""
        for convs in self.levels[number]:  # type: ignore[attr-defined]
            x = convs(x)
            if number:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return x

    def losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return ``loss_semantic``: the cross entropy at image size, from targets with a semantic map."""
        assert targets.semantic is not None
        return {"loss_semantic": upsampled_cross_entropy(self(features), targets.semantic) * self.config.loss_weight}


def check_maps(targets: Targets | None, num_classes: int, values: bool = True) -> None:
    """Raise a ValueError if a semantic head of K classes cannot learn from targets.

    Args:
        values: also check the labels in the maps.
    """
    if targets is None or targets.semantic is None:
        raise ValueError("the semantic head needs semantic maps; load them with CocoDataset(..., maps=...)")
    if values and ((targets.semantic >= num_classes) & (targets.semantic != UNLABELLED)).any():
        raise ValueError(f"targets: a semantic label is not in 0 to {num_classes - 1}, the semantic classes")
