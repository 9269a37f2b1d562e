"""The mask head: which pixels of a box belong to the object?

B images   S RoI samples   D detections   K classes   m mask side.
He et al. 2017 (Mask R-CNN), sections 3 and 3.1: one mask per class, no competition between classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.conv_stack import ConvStack
from detection.ops.masks import crop_masks
from detection.ops.roi_align import roi_align
from detection.structures import IGNORE, Detections, RoISamples, Targets


@dataclass(frozen=True)
class MaskHeadConfig:
    """Layers of the mask head."""

    convs: int = 4
    """3x3 convolutions before the upsampling."""
    channels: int = 256
    """Their width."""
    norm: Literal["batch", "sync", "group"] | None = None
    """Norm after each of them."""
    resolution: int = 14
    """Side of the RoI's features; the mask has twice as many."""
    sampling_ratio: int = 2
    """Sampling points per cell and side; 0 takes as many as the RoI is large (detectron2)."""
    aligned: bool = True
    """Sample half a pixel further left and up, as pixel centres want it; torchvision does not."""
    rounded_frames: bool = False
    """Paste masks into frames of whole pixels, as torchvision does, not exactly into their boxes."""


class MaskHead(nn.Module):
    """Mask logits of RoIs; their loss in training, probabilities at test time. Arguments as for the box head."""

    needs = ("masks",)
    """The fields of the targets that this head learns from."""
    missing = "the mask head learns from masks: load them, CocoDataset(..., masks=True), or build faster_rcnn"
    """What to say where a batch lacks them."""

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: MaskHeadConfig) -> None:
        super().__init__()
        self.num_classes, self.strides, self.config = num_classes, tuple(strides), config
        self.convs = ConvStack(channels, [config.channels] * config.convs, config.norm)
        self.upsample = nn.ConvTranspose2d(config.channels if config.convs else channels, config.channels, 2, stride=2)
        self.logits = nn.Conv2d(config.channels, num_classes, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=0.001)  # every mask starts undecided, for any number of classes
        for layer in (self.upsample, self.logits):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Return the mask logits of each RoI's own class.

        Args:
            features: P2...
            rois: (B, S, 4).
            labels: (B, S) int64; the logits of a RoI with a negative label mean nothing.

        Returns:
            (B, S, m, m) float32.
        """
        x = self.convs(self.pool(features, rois).flatten(0, 1))
        logits = self.logits(self.upsample(x).relu())  # (B * S, K, m, m)
        own = labels.clamp(min=0).flatten()
        return logits[torch.arange(len(own), device=own.device), own].float().unflatten(0, labels.shape)

    def pool(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return the features of RoIs, (B, S, C, r, r)."""
        config = self.config
        return roi_align(features, self.strides, rois, config.resolution, config.sampling_ratio, config.aligned)

    def losses(self, features: Sequence[Tensor], samples: RoISamples, targets: Targets) -> dict[str, Tensor]:
        """Return ``loss_mask``: binary cross-entropy of the own class's mask, mean over known positives (section 3)."""
        assert targets.masks is not None
        rois, matched, labels = (x[:, : samples.positives] for x in (samples.boxes, samples.matched, samples.labels))
        truth = crop_masks(targets.masks, targets.boxes, matched, rois, 2 * self.config.resolution)  # (B, S, m, m)
        unused = (labels >= self.num_classes) | (labels < 0) | (truth[..., 0, 0] < 0)  # the mask is not known
        logits = self(features, rois, labels.masked_fill(unused, IGNORE))
        loss = F.binary_cross_entropy_with_logits(logits, truth.clamp(min=0), reduction="none").mean(dim=(2, 3))
        # Not times zero, which is NaN where an unused slot overflows (float16).
        return {"loss_mask": loss.masked_fill(unused, 0).sum() / (~unused).sum().clamp(min=1)}

    def detect(self, features: Sequence[Tensor], detections: Detections) -> Detections:
        """Return the detections with (B, D, m, m) probabilities; zero on padding."""
        masks = self(features, detections.boxes, detections.labels).sigmoid()
        return detections._replace(masks=masks.masked_fill((detections.labels == IGNORE)[..., None, None], 0))
