"""Masks of a one-stage detector: a small network for each object, whose weights the object's cell predicts.

Tian et al. 2020 (CondInst), section 3. Unlike in CondInst, a network sees only the box of its object, on a grid of
fixed size. So memory does not depend on the image size, and masks have the same form as those of Mask R-CNN.

B images   N cells   S samples   D detections   C mask features   P weights of an object's network   m mask side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.conv_stack import ConvStack
from detection.ops.masks import crop_masks
from detection.ops.roi_align import roi_align
from detection.structures import IGNORE, Detections, Targets


@dataclass(frozen=True)
class ObjectMaskConfig:
    """Layers and training samples of the masks of a one-stage detector."""

    convs: int = 4
    """Number of 3x3 convolutions that compute the mask features from the three finest levels."""
    channels: int = 128
    """Channels of these convolutions."""
    features: int = 8
    """Channels of the mask features."""
    layers: int = 3
    """Layers of an object's network; 1: a weighted sum of the features, as in YOLACT."""
    hidden: int = 8
    """Channels between these layers."""
    side: int = 28
    """Side of a mask, in cells."""
    samples: int = 64
    """Largest number of cells per image in the mask loss."""
    rounded_frames: bool = False
    """Round boxes to whole pixels before pasting masks, as torchvision does."""


class ObjectMasks(nn.Module):
    """Compute mask features, the weights of each object's network, and masks.

    Args:
        channels: channels of the pyramid.
        strides: strides of its levels, finest first.
    """

    loss_names = ("loss_mask",)
    missing = (
        "the mask loss needs masks; load them with CocoDataset(..., masks=True), or set task_aligned.masks to false"
    )
    """Error message if the targets have no masks."""

    def __init__(self, channels: int, strides: Sequence[int], config: ObjectMaskConfig) -> None:
        super().__init__()
        self.config, self.stride = config, strides[0]
        widths = [config.features + 2, *[config.hidden] * (config.layers - 1), 1]  # two coordinates in the box
        self.shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
        self.levels = min(3, len(strides))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, config.channels, 1) for _ in range(self.levels))
        self.convs = ConvStack(config.channels, [config.channels] * config.convs, "group")
        self.features = nn.Conv2d(config.channels, config.features, 1)
        self.controller = nn.Conv2d(channels, sum(o * i + o for o, i in self.shapes), 3, padding=1)
        nn.init.normal_(self.controller.weight, std=0.01)
        nn.init.zeros_(self.controller.bias)  # type: ignore[arg-type]

    def weights(self, hidden: Tensor) -> Tensor:
        """Return the weights (B, N_l, P) of the networks of a level's cells, in float32."""
        return self.controller(hidden).permute(0, 2, 3, 1).flatten(1, 2).float()  # type: ignore[no-any-return]

    def mask_features(self, features: Sequence[Tensor]) -> Tensor:
        """Return the mask features (B, C, H, W) at the stride of the finest level."""
        x = self.lateral[0](features[0])
        for lateral, level in zip(list(self.lateral)[1:], features[1:], strict=False):
            x = x + F.interpolate(lateral(level), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.features(self.convs(x))  # type: ignore[no-any-return]

    def forward(self, features: Tensor, weights: Tensor, boxes: Tensor) -> Tensor:
        """Return mask logits (B, S, m, m) of boxes.

        Args:
            features: from :meth:`mask_features`.
            weights: (B, S, P).
            boxes: (B, S, 4); no gradient flows into them.
        """
        side = self.config.side
        pooled = self.pool(features, boxes).flatten(3).float()  # (B, S, C, m * m)
        place = (torch.arange(side, device=boxes.device, dtype=pooled.dtype) + 0.5) * 2 / side - 1
        grid = torch.stack([place.expand(side, side), place[:, None].expand(side, side)]).flatten(1)  # x, y in the box
        x = torch.cat([pooled, grid.expand(*pooled.shape[:2], -1, -1)], dim=2)
        first = 0
        for i, (outputs, inputs) in enumerate(self.shapes):
            weight, bias = weights[..., first : first + outputs * inputs], outputs * inputs + first
            x = weight.unflatten(2, (outputs, inputs)) @ x + weights[..., bias : bias + outputs, None]
            x = x.relu() if i < len(self.shapes) - 1 else x
            first = bias + outputs
        return x.unflatten(3, (side, side)).squeeze(2)

    def pool(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Return the mask features of boxes, (B, S, C, m, m)."""
        return roi_align([features], [self.stride], boxes, self.config.side, 1)

    def losses(
        self,
        features: Sequence[Tensor],
        weights: Tensor,
        boxes: Tensor,
        matched: Tensor,
        quality: Tensor,
        targets: Targets,
        divisor: Callable[[Tensor, float], Tensor],
    ) -> dict[str, Tensor]:
        """Return ``loss_mask``: binary cross-entropy plus the dice loss, means over samples with a mask.

        Args:
            weights: (B, N, P) of all cells.
            boxes: (B, N, 4), predicted.
            matched: (B, N) int64, the object of each cell.
            quality: (B, N), above zero for the cells that may be samples; those with the largest are the samples.
            divisor: see :attr:`~detection.models.dense_head.DenseHead.divisor`.
        """
        assert targets.masks is not None
        best, index = quality.topk(min(self.config.samples, quality.shape[1]))  # (B, S)
        rois = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        own = weights.gather(1, index[..., None].expand(-1, -1, weights.shape[2]))
        truth = crop_masks(targets.masks, targets.boxes, matched.gather(1, index), rois, self.config.side)
        unused = (best <= 0) | (truth[..., 0, 0] < 0)  # no sample, or an unknown mask
        logits = self(self.mask_features(features), own, rois)
        truth = truth.clamp(min=0)
        entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(2, 3))
        shares = logits.sigmoid()
        shared, both = (shares * truth).sum(dim=(2, 3)), (shares**2 + truth**2).sum(dim=(2, 3))
        dice = 1 - 2 * shared / both.clamp(min=1e-6)
        return {"loss_mask": (entropy + dice).masked_fill(unused, 0).sum() / divisor((~unused).sum(), 1)}

    def detect(self, features: Sequence[Tensor], weights: Tensor, detections: Detections) -> Detections:
        """Return the detections with mask probabilities (B, D, m, m); zero on padding.

        Args:
            weights: (B, D, P) of the detections' cells.
        """
        masks = self(self.mask_features(features), weights, detections.boxes).sigmoid()
        return detections._replace(masks=masks.masked_fill((detections.labels == IGNORE)[..., None, None], 0))
