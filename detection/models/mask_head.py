"""The mask head: predicts which pixels of a RoI belong to its object.

B images   S RoI samples   D detections   K classes   m mask side.
He et al. 2017 (Mask R-CNN), sections 3 and 3.1: one independent mask per class.
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
    """Number of 3x3 convolutions before the upsampling."""
    channels: int = 256
    """Channels of these convolutions."""
    norm: Literal["batch", "sync", "group", "layer"] | None = None
    """Norm after each of these convolutions."""
    resolution: int = 14
    """Side of the pooled RoI features, in cells; the mask has twice this side."""
    sampling_ratio: int = 2
    """Samples of RoIAlign per bin and axis; 0: one per feature cell that the bin covers (detectron2)."""
    aligned: bool = True
    """Shift RoIs by half a pixel, so that features belong to pixel centres; torchvision does not."""
    rounded_frames: bool = False
    """Round boxes to whole pixels before pasting masks, as torchvision does."""


class MaskHead(nn.Module):
    """Predict masks of RoIs: a loss in training, probabilities at test time. Arguments as for the box head."""

    loss_names = ("loss_mask",)
    needs = ("masks",)
    """Fields of the targets that the loss needs."""
    missing = "the mask head needs masks; load them with CocoDataset(..., masks=True), or build a faster_rcnn instead"
    """Error message if the targets lack these fields."""

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: MaskHeadConfig) -> None:
        super().__init__()
        self.num_classes, self.strides, self.config = num_classes, tuple(strides), config
        self.convs = ConvStack(channels, [config.channels] * config.convs, config.norm)
        self.upsample = nn.ConvTranspose2d(config.channels if config.convs else channels, config.channels, 2, stride=2)
        self.logits = nn.Conv2d(config.channels, num_classes, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=0.001)  # probabilities start near 0.5, for any number of classes
        for layer in (self.upsample, self.logits):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Return the mask logits of each RoI's class.

        Args:
            features: P2...
            rois: (B, S, 4).
            labels: (B, S) int64; the logits of a RoI with a negative label are meaningless.

        Returns:
            (B, S, m, m) float32.
        """
        x = self.convs(self.pool(features, rois).flatten(0, 1))
        logits = self.logits(self.upsample(x).relu())  # (B * S, K, m, m)
        own = labels.clamp(min=0).flatten()
        return logits[torch.arange(own.shape[0], device=own.device), own].float().unflatten(0, labels.shape)

    def pool(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return the features of RoIs, (B, S, C, r, r)."""
        config = self.config
        return roi_align(features, self.strides, rois, config.resolution, config.sampling_ratio, config.aligned)

    def losses(self, features: Sequence[Tensor], samples: RoISamples, targets: Targets) -> dict[str, Tensor]:
        """Return ``loss_mask``: binary cross-entropy of the true class's mask, averaged over positives with a mask."""
        assert targets.masks is not None
        rois, matched, labels = (x[:, : samples.positives] for x in (samples.boxes, samples.matched, samples.labels))
        truth = crop_masks(targets.masks, targets.boxes, matched, rois, 2 * self.config.resolution)  # (B, S, m, m)
        unused = (labels >= self.num_classes) | (labels < 0) | (truth[..., 0, 0] < 0)  # negative: unknown mask
        logits = self(features, rois, labels.masked_fill(unused, IGNORE))
        loss = F.binary_cross_entropy_with_logits(logits, truth.clamp(min=0), reduction="none").mean(dim=(2, 3))
        # masked_fill, not a product with zero: an unused entry may be Inf in float16, and 0 * Inf is NaN.
        return {"loss_mask": loss.masked_fill(unused, 0).sum() / (~unused).sum().clamp(min=1)}

    def detect(self, features: Sequence[Tensor], detections: Detections) -> Detections:
        """Return the detections with mask probabilities (B, D, m, m); zero on padding."""
        masks = self(features, detections.boxes, detections.labels).sigmoid()
        return detections._replace(masks=masks.masked_fill((detections.labels == IGNORE)[..., None, None], 0))
