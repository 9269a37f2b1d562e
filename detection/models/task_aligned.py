"""A one-stage detector without anchors: each object trains the cells that already find it best.

The assignment is that of TOOD (Feng et al. 2021). The losses of classes and distances are those of Generalized Focal
Loss (Li et al. 2020). For masks, each object has a small network, as in CondInst (Tian et al. 2020).

B images   N cells of all levels, N_l of level l   K classes   n distances   D detections   S samples   m mask side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from detection.models.anchors import AnchorConfig, Anchors
from detection.models.dense_head import DenseHead, DenseHeadConfig, Select, rows, start, take, target_classes
from detection.models.object_masks import ObjectMaskConfig, ObjectMasks
from detection.ops.centres import boxes_around, sides
from detection.ops.losses import distribution_focal_loss, giou_loss, quality_focal_loss
from detection.ops.task_aligned import assign_aligned
from detection.structures import IGNORE, Batch, Detections


@dataclass(frozen=True)
class TaskAlignedConfig(DenseHeadConfig):
    """Layers, assignment of cells, losses and detections of a task-aligned detector."""

    norm: Literal["batch", "sync", "group"] | None = "group"
    """Norm after each of the convolutions."""
    nms_threshold: float = 0.6
    """Of two detections of one class with a larger IoU, keep only the better one."""
    distances: int = 17
    """Number of whole distances, 0 to 16 strides, whose distribution a cell predicts for each side of the box."""
    cells: int = 13
    """Largest number of cells that an object trains."""
    score_power: float = 1.0
    """Power of the score in the measure of how well a prediction fits; alpha in TOOD."""
    iou_power: float = 6.0
    """Power of the IoU in this measure; beta in TOOD."""
    box_weight: float = 2.0
    """Weight of the GIoU loss."""
    distance_weight: float = 0.25
    """Weight of the distribution focal loss."""
    masks: bool = False
    """Predict a mask for each detection."""
    mask_branch: ObjectMaskConfig = field(default_factory=ObjectMaskConfig)
    """Layers and samples of the masks; without effect if ``masks`` is false."""

    def build(self, channels: int, num_classes: int, strides: Sequence[int]) -> "TaskAlignedHead":
        """Return the head for a pyramid with these channels and strides."""
        return TaskAlignedHead(channels, num_classes, strides, self)


class TaskAlignedHead(DenseHead):
    """Predict class logits and distributions of the distances to the four sides at every cell."""

    kind = "Task-aligned detector"
    config: TaskAlignedConfig

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: TaskAlignedConfig) -> None:
        super().__init__(channels, num_classes, 1, config)
        self.strides = tuple(strides)
        self.anchors = Anchors(strides, AnchorConfig(strides, (1.0,)))  # their corners are the corners of the cells
        self.sides = nn.Conv2d(channels, 4 * config.distances, 3, padding=1)
        start(self.sides)
        self.masks = ObjectMasks(channels, strides, config.mask_branch) if config.masks else None
        self.needs, self.missing = ((), "") if self.masks is None else (("masks",), self.masks.missing)
        of_masks = () if self.masks is None else self.masks.loss_names
        self.loss_names = ("loss_cls", "loss_box_reg", "loss_distance", *of_masks)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return class logits (B, N_l, K), distance logits (B, N_l, 4, n) and mask weights (B, N_l, P) per level.

        All three are float32. P is zero without masks.
        """
        logits, distances, weights = [], [], []
        for x in features:
            logits.append(rows(self.logits(self.class_convs(x)), self.num_classes))
            hidden = self.box_convs(x)
            width = self.config.distances
            distances.append(rows(self.sides(hidden), 4 * width).unflatten(2, (4, width)))
            weights.append(logits[-1][..., :0] if self.masks is None else self.masks.weights(hidden))
        return logits, distances, weights

    def losses(self, features: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_box_reg``, ``loss_distance`` and, with masks, ``loss_mask``.

        The first three are sums over the batch, divided by the sum of the qualities (TOOD, equations 6 and 8), of which
        several devices take the mean. The last one is a mean over samples of all devices.
        """
        assert batch.targets is not None
        targets, config = batch.targets, self.config
        logits, distances, weights = (torch.cat(levels, dim=1) for levels in self(features))
        cells = self.canvas_anchors(features, (batch.images.shape[-2], batch.images.shape[-1]))
        centres, stride = self.points(cells.boxes)
        boxes = boxes_around(centres, self.expected(distances) * stride)
        truth = targets.boxes, targets.labels, targets.crowd
        inside = cells.inside(batch.sizes)
        scores = logits.detach().sigmoid() * inside[..., None]
        powers = config.score_power, config.iou_power
        index, label, quality = assign_aligned(truth, centres, scores, boxes.detach(), config.cells, *powers)
        label = label.masked_fill(~inside, IGNORE)
        quality = quality.masked_fill(label != 1, 0)
        total = self.divisor(quality.sum(), 1)
        own = take(targets.boxes, index)
        classes = target_classes(targets, index, label, self.num_classes)
        of_distance = distribution_focal_loss(distances, sides(centres, own) / stride).mean(dim=-1)
        positive = label == 1
        found = {
            "loss_cls": quality_focal_loss(logits, classes, quality, config.gamma).sum() / total,
            "loss_box_reg": config.box_weight * (giou_loss(boxes, own) * quality).where(positive, 0).sum() / total,
            "loss_distance": config.distance_weight * (of_distance * quality).where(positive, 0).sum() / total,
        }
        if self.masks is not None:
            found |= self.masks.losses(features, weights, boxes.detach(), index, quality, targets, self.divisor)
        return found

    def candidates(self, features: Sequence[Tensor], canvas: tuple[int, int], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best boxes (B, N, 4) of each level, and their scores (B, N, K)."""
        return self._best_cells(features, canvas, sizes)[:2]

    def detect(self, features: Sequence[Tensor], canvas: tuple[int, int], sizes: Tensor, select: Select) -> Detections:
        """Return the detections with their masks, if the head predicts masks."""
        boxes, scores, weights = self._best_cells(features, canvas, sizes)
        *found, index = select(boxes, scores)
        detections = Detections(*found)
        return detections if self.masks is None else self.masks.detect(features, take(weights, index), detections)

    def _best_cells(
        self, features: Sequence[Tensor], canvas: tuple[int, int], sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (B, N, 4), scores (B, N, K) and mask weights (B, N, P) of the best cells of each level."""
        cells = self.canvas_anchors(features, canvas)
        outside = (~cells.inside(sizes)).split(cells.lengths, dim=1)
        centres = self.points(cells.boxes)[0].split(cells.lengths)
        boxes, scores, weights = [], [], []
        levels = zip(*self(features), centres, outside, self.strides, strict=True)
        for logit, distance, weight, point, out, stride in levels:
            score = logit.sigmoid().masked_fill(out[..., None], 0)
            index = self.best(score.amax(dim=2))
            distance = distance.flatten(2).gather(1, index[..., None].expand(-1, -1, distance[0, 0].numel()))
            expected = self.expected(distance.unflatten(2, (4, -1)))
            boxes.append(boxes_around(point[index], expected * stride))
            scores.append(take(score, index))
            weights.append(take(weight, index))
        return *self.of_all_levels(boxes, scores, sizes), torch.cat(weights, dim=1)

    def expected(self, distances: Tensor) -> Tensor:
        """Return the mean of each distribution, (..., n) logits to (...) in strides."""
        steps = torch.arange(distances.shape[-1], dtype=distances.dtype, device=distances.device)
        return distances.softmax(dim=-1) @ steps

    def points(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centres (N, 2) and strides (N, 1) of cells, from their squares (N, 4)."""
        return squares[:, 2:].clone(), (squares[:, 2:] - squares[:, :2])[:, :1]
