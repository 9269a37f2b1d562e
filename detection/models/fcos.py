"""FCOS: every cell inside an object predicts how far the object's four sides are.

B images   N cells of all levels, N_l of level l   G ground truths   K classes.
Tian et al. 2019 (FCOS: Fully Convolutional One-Stage Object Detection); with normed sides, GIoU loss and centre
sampling: Tian et al. 2020 (FCOS: A Simple and Strong Anchor-Free Object Detector).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.anchors import AnchorConfig, Anchors, CanvasAnchors
from detection.models.dense_head import DenseHead, DenseHeadConfig, rows, start, take, target_classes
from detection.ops.centres import Points, assign, boxes_around, centreness, sides
from detection.ops.losses import focal_loss, giou_loss
from detection.structures import IGNORE, Batch


@dataclass(frozen=True)
class FCOSConfig(DenseHeadConfig):
    """Layers, assignment of cells, losses and detections of an FCOS."""

    norm: Literal["batch", "sync", "group"] | None = "group"
    """Norm after each of the convolutions."""
    nms_threshold: float = 0.6
    """Of two detections of one class that overlap more, the better one stays."""
    radius: float = 1.5
    """A cell is positive up to this many strides from the centre of its object, along both axes."""
    reach: float = 8.0
    """The farthest side that a level predicts, in strides: 64 pixels on P3. The last level has no limit."""
    weight_boxes: bool = True
    """Weight the box loss of a cell by how central it is, as the authors' repository does; torchvision does not."""
    level_scales: bool = True
    """Learn one factor per level for the distances; torchvision has none."""
    offset: float = 0.5
    """Where in its cell the point lies that distances are measured from: the centre; torchvision has 0, the corner."""
    stride_from_canvas: bool = False
    """Space the points by canvas // cells, as torchvision does."""

    def build(self, channels: int, num_classes: int, strides: Sequence[int]) -> "FCOSHead":
        """Return the head on a pyramid of these channels and strides."""
        return FCOSHead(channels, num_classes, strides, self)


class FCOSHead(DenseHead):
    """Class logits, distances to the sides and centre-ness at every cell; losses and detections from them."""

    kind = "FCOS"
    loss_names = ("loss_cls", "loss_box_reg", "loss_centreness")
    config: FCOSConfig

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: FCOSConfig) -> None:
        super().__init__(channels, num_classes, 1, config, bias=True)
        self.strides = tuple(strides)
        squares = AnchorConfig(strides, (1.0,), stride_from_canvas=config.stride_from_canvas)
        self.anchors = Anchors(strides, squares)  # a square of one stride around the corner of every cell
        self.sides = nn.Conv2d(channels, 4, 3, padding=1)
        self.centreness = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides))) if config.level_scales else None
        for layer in (self.sides, self.centreness):
            start(layer)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return class logits (B, N_l, K), sides (B, N_l, 4) in strides and centre-ness logits (B, N_l) per level.

        The sides are left, top, right, bottom; all three are float32.
        """
        logits, distances, centre = [], [], []
        scales: Sequence[float | Tensor] = [1.0] * len(features) if self.scales is None else self.scales.unbind()
        for x, scale in zip(features, scales, strict=True):
            logits.append(rows(self.logits(self.class_convs(x)), self.num_classes))
            hidden = self.box_convs(x)
            distances.append((rows(self.sides(hidden), 4) * scale).relu())
            centre.append(rows(self.centreness(hidden), 1).squeeze(2))
        return logits, distances, centre

    def losses(self, features: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_box_reg`` and ``loss_centreness``, means over the positives of all devices.

        The paper of 2019, equation 2, with a GIoU loss and a binary cross entropy for the centre-ness. With
        ``weight_boxes``, the mean of the GIoU losses is weighted by the centre-ness, as in the authors' repository.
        """
        assert batch.targets is not None
        targets, config = batch.targets, self.config
        logits, distances, centre = (torch.cat(levels, dim=1) for levels in self(features))
        cells = self.canvas_anchors(features, (batch.images.shape[-2], batch.images.shape[-1]))
        points = self.points(cells)
        matched, label = assign(targets.boxes, targets.crowd, points, config.radius)
        label = label.masked_fill(~cells.inside(batch.sizes), IGNORE)
        negative = label != 1
        classes = target_classes(targets, matched, label, self.num_classes)
        truth = take(targets.boxes, matched)
        boxes = boxes_around(points.centres, distances * points.strides[:, None])
        wanted = centreness(sides(points.centres, truth)).masked_fill(negative, 0)
        of_centre = F.binary_cross_entropy_with_logits(centre, wanted, reduction="none")
        count = self.divisor((~negative).sum(), 1)
        # A positive cell lies inside its object, so that the sum of the weights is zero only without positives.
        weight, total = (wanted, self.divisor(wanted.sum(), 1e-6)) if config.weight_boxes else (1.0, count)
        of_box = (giou_loss(boxes, truth) * weight).masked_fill(negative, 0)
        return {
            "loss_cls": focal_loss(logits, classes, config.alpha, config.gamma).sum() / count,
            "loss_box_reg": of_box.sum() / total,
            "loss_centreness": of_centre.masked_fill(negative, 0).sum() / count,
        }

    def candidates(self, features: Sequence[Tensor], canvas: tuple[int, int], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best boxes (B, N, 4) of each level, and their scores (B, N, K).

        A score is the geometric mean of class probability and centre-ness.
        """
        cells = self.canvas_anchors(features, canvas)
        outside = (~cells.inside(sizes)).split(cells.lengths, dim=1)
        centres = self.points(cells).centres.split(cells.lengths)
        boxes, scores = [], []
        for logit, distance, centre, point, out, stride in zip(
            *self(features), centres, outside, self.strides, strict=True
        ):
            quality = centre.sigmoid().masked_fill(out, 0)
            index = self.best(logit.amax(dim=2).sigmoid() * quality)
            boxes.append(boxes_around(point[index], take(distance, index) * stride))
            scores.append((take(logit, index).sigmoid() * quality.gather(1, index)[..., None]).sqrt())
        return self.of_all_levels(boxes, scores, sizes)

    def points(self, cells: CanvasAnchors) -> Points:
        """Return where each cell measures from, and which distances it predicts."""
        width = cells.boxes[:, 2] - cells.boxes[:, 0]
        centres = (cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2 + self.config.offset * width[:, None]
        limits = [0.0, *(self.config.reach * stride for stride in self.strides[:-1]), float("inf")]
        low, high = (
            torch.cat([width.new_full((n,), limit) for n, limit in zip(cells.lengths, part, strict=True)])
            for part in (limits[:-1], limits[1:])
        )
        return Points(centres, width, low, high)
