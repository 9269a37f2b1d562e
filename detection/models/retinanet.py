"""RetinaNet: anchors on every cell, and a focal loss for the many that hold nothing.

B images   A anchors per cell   N anchors of all levels   K classes.
Lin et al. 2017 (Focal Loss for Dense Object Detection).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.anchors import AnchorConfig, Anchors, CanvasAnchors
from detection.models.dense_head import DenseHead, DenseHeadConfig, rows, start, take, target_classes
from detection.ops import boxes as box_ops
from detection.ops.losses import focal_loss, giou_loss
from detection.ops.matching import match
from detection.structures import IGNORE, Batch, Targets


def three_scales(sides: Sequence[float] = (32, 64, 128, 256, 512)) -> AnchorConfig:
    """Return anchors of three sizes per level, a third of an octave apart (section 4.1).

    Args:
        sides: the smallest of each level, finest first.
    """
    return AnchorConfig(sizes=tuple(tuple(side * 2 ** (i / 3) for i in range(3)) for side in sides))


@dataclass(frozen=True)
class RetinaNetConfig(DenseHeadConfig):
    """Anchors, layers, losses and detections of a RetinaNet."""

    anchors: AnchorConfig = field(default_factory=three_scales)
    """Sizes and shapes of the anchors."""
    low: float = 0.4
    """Anchors whose best IoU is below are negative."""
    high: float = 0.5
    """Anchors whose best IoU reaches this are positive; between the two they are ignored."""
    box_loss: Literal["l1", "giou"] = "l1"
    """l1: of the deltas; giou: of the boxes (Rezatofighi et al. 2019)."""
    beta: float = 0.0
    """Where the l1 loss turns from squared to linear; 0 is plain L1."""

    def build(self, channels: int, num_classes: int, strides: Sequence[int]) -> "RetinaNetHead":
        """Return the head on a pyramid of these channels and strides."""
        return RetinaNetHead(channels, num_classes, strides, self)


class RetinaNetHead(DenseHead):
    """Class logits and deltas at every anchor; losses and detections from them."""

    kind = "RetinaNet"
    loss_names = ("loss_cls", "loss_box_reg")
    config: RetinaNetConfig

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: RetinaNetConfig) -> None:
        anchors = Anchors(strides, config.anchors)
        super().__init__(channels, num_classes, anchors.per_cell, config)
        self.anchors = anchors
        self.deltas = nn.Conv2d(channels, anchors.per_cell * 4, 3, padding=1)
        start(self.deltas)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits (B, N_l, K) and deltas (B, N_l, 4) per level, both float32."""
        logits = [rows(self.logits(self.class_convs(x)), self.num_classes) for x in features]
        return logits, [rows(self.deltas(self.box_convs(x)), 4) for x in features]

    def losses(self, features: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box_reg``: sums over an image's anchors by its positives, mean over images."""
        assert batch.targets is not None
        logits, deltas = (torch.cat(levels, dim=1) for levels in self(features))
        anchors = self.canvas_anchors(features, (batch.images.shape[-2], batch.images.shape[-1]))
        matched, label = self.match(batch.targets, anchors)
        label = label.masked_fill(~anchors.inside(batch.sizes), IGNORE)
        count = (label == 1).sum(dim=1).clamp(min=1)
        classes = target_classes(batch.targets, matched, label, self.num_classes)
        of_class = focal_loss(logits, classes, self.config.alpha, self.config.gamma)  # (B, N)
        of_box = self.box_losses(deltas, anchors.boxes, take(batch.targets.boxes, matched))
        return {
            "loss_cls": (of_class.sum(dim=1) / count).mean(),
            "loss_box_reg": (of_box.masked_fill(label != 1, 0).sum(dim=1) / count).mean(),
        }

    def match(self, targets: Targets, anchors: CanvasAnchors) -> tuple[Tensor, Tensor]:
        """Return the best ground truth (B, N) of each anchor and its label (B, N); see :func:`match`."""
        low, high = self.config.low, self.config.high
        return match(targets.boxes, targets.crowd, anchors.boxes, low, high, keep_best=True)

    def box_losses(self, deltas: Tensor, anchors: Tensor, truth: Tensor) -> Tensor:
        """Return the loss (B, N) of each box; meaningful for positives only.

        Args:
            deltas: (B, N, 4).
            anchors: (N, 4).
            truth: (B, N, 4) the matched boxes.
        """
        if self.config.box_loss == "giou":
            return giou_loss(box_ops.decode(deltas, anchors), truth)
        target = box_ops.encode(truth, anchors)
        return F.smooth_l1_loss(deltas, target, beta=self.config.beta, reduction="none").sum(dim=-1)

    def candidates(self, features: Sequence[Tensor], canvas: tuple[int, int], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best boxes (B, N, 4) of each level, and their scores (B, N, K)."""
        anchors = self.canvas_anchors(features, canvas)
        outside = (~anchors.inside(sizes)).split(anchors.lengths, dim=1)
        boxes, scores = [], []
        for logit, delta, anchor, out in zip(
            *self(features), anchors.boxes.split(anchors.lengths), outside, strict=True
        ):
            index = self.best(logit.amax(dim=2).masked_fill(out, -torch.inf))
            boxes.append(box_ops.decode(take(delta, index), anchor[index]))
            scores.append(take(logit, index).sigmoid().masked_fill(out.gather(1, index)[..., None], 0))
        return self.of_all_levels(boxes, scores, sizes)
