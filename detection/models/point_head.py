"""The mask head of PointRend, which decides the mask point by point, and the detector with this head.

A coarse head predicts masks of few cells. A point head decides about single points. In training these are random, most
of them where the coarse mask is uncertain. At test time they are the uncertain pixels of ever finer masks.

B images   S RoI samples   D detections   R RoIs to compute   K classes   P points   c coarse mask side   m mask side.
Kirillov et al. 2020 (PointRend), in detectron2's form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from detection.models.rcnn import FasterRCNN, TwoStage
from detection.ops.masks import crop_masks
from detection.ops.points import cell_centres, on_canvas, sample_maps, uncertain_points
from detection.structures import IGNORE, Batch, Detections, RoISamples, Targets

if TYPE_CHECKING:
    from detection.models.box_head import BoxHead
    from detection.models.fpn import FPN
    from detection.models.rpn import RPN

LARGEST_SIDE = 896
"""Largest side of a mask."""


@dataclass(frozen=True)
class PointHeadConfig:
    """Layers and points of PointRend's mask head."""

    resolution: int = 14
    """Side of the grid of features that the coarse head reads, in points; even."""
    channels: int = 256
    """Channels of the coarse head's convolutions."""
    fcs: int = 2
    """Number of fully connected layers after them."""
    hidden: int = 1024
    """Channels of these layers."""
    coarse: int = 7
    """Side of the coarse mask."""
    layers: int = 3
    """Layers of the point head before its logits."""
    layer_channels: int = 256
    """Channels of these layers."""
    points: int = 196
    """Points of each object in training."""
    oversample: float = 3.0
    """How many times as many points to draw for the choice of the uncertain ones; k in the paper."""
    importance: float = 0.75
    """Fraction of the points that are uncertain ones; the others are anywhere in the RoI. beta in the paper."""
    subdivisions: int = 5
    """How often to double the side of the mask at test time: 5 make 224 of 7."""
    subdivision_points: int = 784
    """Most uncertain pixels of a mask that the point head decides after each doubling."""
    predicted_boxes: bool = True
    """Train with the boxes that the box head predicts for the sampled RoIs, as at test time."""
    rounded_frames: bool = False
    """Round boxes to whole pixels before pasting masks, as torchvision does."""

    def check(self) -> None:
        """Raise a ValueError for settings that make no head."""
        for name in ("coarse", "points", "subdivision_points", "channels", "hidden", "layer_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.point_head.{name} is {getattr(self, name)}; it must be at least 1")
        if self.resolution < 2 or self.resolution % 2:
            raise ValueError(f"model.point_head.resolution is {self.resolution}; it must be even")
        if not 1 <= self.oversample <= 100 or not 0 <= self.importance <= 1:
            raise ValueError(
                f"model.point_head: oversample is {self.oversample} and importance {self.importance}; oversample must "
                "be from 1 to 100, importance from 0 to 1"
            )
        if self.coarse * 2 ** min(self.subdivisions, 10) > LARGEST_SIDE:
            raise ValueError(
                f"model.point_head.subdivisions is {self.subdivisions}: a mask of side {self.coarse} would become "
                f"larger than {LARGEST_SIDE} x {LARGEST_SIDE} pixels; set a smaller number"
            )


class CoarseMasks(nn.Module):
    """Predict coarse masks of all classes, from the features at a grid of points of each RoI.

    Args:
        channels: channels of the features.
        num_classes: K, without background.
    """

    def __init__(self, channels: int, num_classes: int, config: PointHeadConfig) -> None:
        super().__init__()
        width, cells = config.channels, (config.resolution // 2) ** 2
        self.shape = (num_classes, config.coarse, config.coarse)
        self.reduce = nn.Conv2d(channels, width, 1) if channels != width else None
        self.shrink = nn.Conv2d(width, width, 2, stride=2)
        sizes = [width * cells, *[config.hidden] * config.fcs]
        self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.logits = nn.Linear(sizes[-1], num_classes * config.coarse**2)
        for conv in filter(None, (self.reduce, self.shrink)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for fc in self.fcs:
            nn.init.kaiming_uniform_(fc.weight, a=1)  # type: ignore[arg-type]
        start(self.logits, *filter(None, (self.reduce, self.shrink, *self.fcs)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (R, K, c, c) from features (R, C, r, r)."""
        x = x if self.reduce is None else self.reduce(x).relu()
        x = self.shrink(x).relu().flatten(1)
        for fc in self.fcs:
            x = fc(x).relu()
        return self.logits(x).unflatten(1, self.shape)  # type: ignore[no-any-return]


class PointMasks(nn.Module):
    """Predict the mask of all classes at points, from features and the coarse logits, which each layer reads.

    The layers are 1x1 convolutions over the points; here they are linear layers.

    Args:
        channels: channels of the features.
        num_classes: K, without background.
    """

    def __init__(self, channels: int, num_classes: int, config: PointHeadConfig) -> None:
        super().__init__()
        sizes = [channels, *[config.layer_channels] * config.layers]
        self.layers = nn.ModuleList(nn.Linear(a + num_classes, b) for a, b in pairwise(sizes))
        self.logits = nn.Linear(sizes[-1] + num_classes, num_classes)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        start(self.logits, *self.layers)

    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:
        """Return logits (R, P, K) from features (R, P, C) and coarse logits (R, P, K)."""
        x = torch.cat([features, coarse], dim=2)
        for layer in self.layers:
            x = torch.cat([layer(x).relu(), coarse], dim=2)
        return self.logits(x)  # type: ignore[no-any-return]


def start(logits: nn.Linear, *layers: nn.Module) -> None:
    """Set the biases of layers to zero, and the last layer's weights so that probabilities start near 0.5."""
    nn.init.normal_(logits.weight, std=0.001)
    for layer in (logits, *layers):
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class PointHead(nn.Module):
    """Predict masks of RoIs by points: losses in training, probabilities at test time. Arguments as for the mask head.

    All features come from the finest level of the pyramid.
    """

    loss_names = ("loss_mask", "loss_mask_point")
    needs = ("masks",)
    """Fields of the targets that the losses need."""
    missing = "the point head needs masks; load them with CocoDataset(..., masks=True), or build a faster_rcnn instead"
    """Error message if the targets lack these fields."""

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: PointHeadConfig) -> None:
        super().__init__()
        config.check()
        self.num_classes, self.stride, self.config = num_classes, strides[0], config
        self.coarse = CoarseMasks(channels, num_classes, config)
        self.point = PointMasks(channels, num_classes, config)

    def losses(
        self,
        features: Sequence[Tensor],
        samples: RoISamples,
        targets: Targets,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_mask`` of the coarse masks and ``loss_mask_point`` of the point head.

        Both are binary cross-entropies of the true class's mask, averaged over positives with a mask. The targets come
        from the bitmaps of the objects: a cell of the coarse mask is 1 if the object covers at least half of it. A
        point is 1 if the bitmap, read bilinearly, is at least 0.5 there.

        Args:
            generator: random generator of the points; None: PyTorch's global one.
        """
        assert targets.masks is not None
        rois, matched, labels = (x[:, : samples.positives] for x in (samples.boxes, samples.matched, samples.labels))
        truth = coarse_truth(targets, matched, rois, self.config.coarse)  # (B, S, c, c)
        unused = (labels >= self.num_classes) | (labels < 0) | (truth[..., 0, 0] < 0)  # negative: unknown mask
        drawn, anywhere = self.draw(unused.numel(), rois.device, generator)
        slots = self.slots(~unused)
        boxes, image, own = rois.flatten(0, 1)[slots], slots // rois.shape[1], labels.flatten()[slots]
        own = own.clamp(0, self.num_classes - 1)
        coarse = self.coarse_masks(features, boxes, image)
        coarse_own = own_class(coarse, own)
        sure = self.config.points - anywhere.shape[1]
        points = torch.cat([uncertain_points(coarse_own.detach(), drawn[slots], sure), anywhere[slots]], dim=1)
        logits = self.point_logits(features, boxes, image, coarse, points, own)
        at = point_truth(targets, matched.flatten()[slots], image, on_canvas(points, boxes))
        count, skipped = (~unused).sum().clamp(min=1), unused.flatten()[slots]
        of_mask = cross_entropy(coarse_own.flatten(1), truth.flatten(0, 1)[slots].flatten(1))
        of_points = cross_entropy(logits, at)
        # masked_fill, not a product with zero: an unused entry may be Inf in float16, and 0 * Inf is NaN.
        return {
            "loss_mask": of_mask.masked_fill(skipped, 0).sum() / count,
            "loss_mask_point": of_points.masked_fill(skipped, 0).sum() / count,
        }

    def detect(self, features: Sequence[Tensor], detections: Detections) -> Detections:
        """Return the detections with mask probabilities (B, D, m, m); zero on padding."""
        real = detections.labels != IGNORE
        slots = self.slots(real)
        boxes, own = (x.flatten(0, 1)[slots] for x in (detections.boxes, detections.labels))
        logits = self(features, boxes, slots // real.shape[1], own.clamp(min=0))
        masks = logits.new_zeros(real.numel(), *logits.shape[1:]).index_copy(0, slots, logits.sigmoid())
        return detections._replace(masks=masks.unflatten(0, real.shape).masked_fill(~real[..., None, None], 0))

    def slots(self, used: Tensor) -> Tensor:
        """Return the numbers of the RoIs to compute, (R,) of B * S: all of them, whichever (B, S) are used."""
        return torch.arange(used.numel(), device=used.device)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor, own: Tensor) -> Tensor:
        """Return mask logits by subdivision (section 3.1): each doubling corrects the most uncertain pixels.

        Args:
            features: P2...
            boxes: (R, 4).
            image: (R,) int64, the image of each box.
            own: (R,) int64, the class of each box.

        Returns:
            (R, m, m) float32.
        """
        coarse = self.coarse_masks(features, boxes, image)
        side, doublings = self.first_side()
        grid = cell_centres(side, boxes.device).expand(boxes.shape[0], -1, -1)
        logits = self.point_logits(features, boxes, image, coarse, grid, own).unflatten(1, (side, side))
        for _ in range(doublings):
            logits = F.interpolate(logits[:, None], scale_factor=2, mode="bilinear", align_corners=False).flatten(1)
            side *= 2
            index = logits.abs().topk(min(self.config.subdivision_points, side * side), largest=False).indices
            points = (torch.stack([index % side, index // side], dim=2) + 0.5) / side
            corrected = self.point_logits(features, boxes, image, coarse, points, own)
            logits = logits.scatter(1, index, corrected).unflatten(1, (side, side))
        return logits

    def first_side(self) -> tuple[int, int]:
        """Return the side of the first mask and the number of doublings after it.

        A mask that is small enough is computed at all pixels; so the doublings before it change nothing.
        """
        side, doublings = self.config.coarse, self.config.subdivisions
        while doublings and 4 * side * side <= self.config.subdivision_points:
            side, doublings = 2 * side, doublings - 1
        return side, doublings

    def coarse_masks(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Return coarse mask logits of all classes, (R, K, c, c)."""
        resolution = self.config.resolution
        points = on_canvas(cell_centres(resolution, boxes.device), boxes)
        x = sample_maps(features[0], points / self.stride, image)
        return self.coarse(x.transpose(1, 2).unflatten(2, (resolution, resolution)))  # type: ignore[no-any-return]

    def point_logits(
        self, features: Sequence[Tensor], boxes: Tensor, image: Tensor, coarse: Tensor, points: Tensor, own: Tensor
    ) -> Tensor:
        """Return the mask logits of each RoI's class at points (R, P, 2) in fractions of its sides, (R, P) float32."""
        fine = sample_maps(features[0], on_canvas(points, boxes) / self.stride, image)
        rough = sample_maps(coarse, points * self.config.coarse, torch.arange(len(coarse), device=coarse.device))
        return own_class(self.point(fine, rough).transpose(1, 2), own)

    def draw(
        self, number: int, device: torch.device, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw points for R RoIs: to choose the uncertain ones from, and those that are anywhere; each (R, P, 2)."""
        config = self.config
        sure = int(config.importance * config.points)
        many = max(int(config.oversample * config.points), sure)
        where = device if generator is None else generator.device
        points = torch.rand((number, many + config.points - sure, 2), generator=generator, device=where).to(device)
        return points[:, :many], points[:, many:]


def own_class(logits: Tensor, own: Tensor) -> Tensor:
    """Return the float32 logits (R, ...) of classes (R,) from those of all classes, (R, K, ...)."""
    return logits[torch.arange(own.shape[0], device=own.device), own].float()


def coarse_truth(targets: Targets, matched: Tensor, rois: Tensor, side: int) -> Tensor:
    """Return the targets of coarse masks, (B, S, c, c) float32: 0, 1, or -1 everywhere if the mask is unknown."""
    assert targets.masks is not None
    parts = crop_masks(targets.masks, targets.boxes, matched, rois, 4 * side)  # 4 x 4 samples of each cell
    covered = F.avg_pool2d(parts, 4)
    return torch.where(covered < 0, covered, (covered >= 0.5).float())


def point_truth(targets: Targets, matched: Tensor, image: Tensor, points: Tensor) -> Tensor:
    """Return whether points lie in their objects, (R, P) float32: 0, 1, or -1 if the mask is unknown.

    Args:
        matched: (R,) int64, the object of each RoI.
        image: (R,) int64, its image.
        points: (R, P, 2) in pixels of the canvas.
    """
    assert targets.masks is not None
    number = points.shape[1]
    masks, boxes = targets.masks.flatten(0, 1)[None], targets.boxes.flatten(0, 1)[None]
    index = (image * targets.labels.shape[1] + matched).repeat_interleave(number)
    rois = points.repeat(1, 1, 2).flatten(0, 1)  # a RoI without area is a point
    return crop_masks(masks, boxes, index[None], rois[None], 1).view(-1, number)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of each RoI, (R, P) to (R,); targets below 0 count as 0."""
    return F.binary_cross_entropy_with_logits(logits, truth.clamp(min=0), reduction="none").mean(dim=1)


class PointRend(FasterRCNN):
    """Faster R-CNN with a mask for each detection, decided point by point."""

    point_head: PointHead

    def __init__(self, backbone: Backbone, fpn: "FPN", rpn: "RPN", box_head: "BoxHead", point_head: PointHead) -> None:
        TwoStage.__init__(self, backbone, fpn, rpn, box_head, {"point_head": point_head})

    def losses(
        self, batch: Batch, features: list[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the proposals, the boxes and the masks; see :meth:`TwoStage.losses`.

        Raises:
            ValueError: as for :meth:`TwoStage.losses`.
        """
        self.check_targets(batch)
        assert batch.targets is not None
        features = self.features(batch.images, batch.sizes) if features is None else features
        losses, proposals = self.rpn.losses(features, batch, generator)
        samples = self.box_head.sample(proposals, batch.targets, generator)
        logits, deltas = self.box_head(features, samples.boxes)
        losses |= self.box_head.losses_of(logits, deltas, samples, batch.targets)
        if self.point_head.config.predicted_boxes:
            samples = self.predicted(samples, deltas.detach(), batch.sizes)
        return losses | self.point_head.losses(features, samples, batch.targets, generator)

    def predicted(self, samples: RoISamples, deltas: Tensor, sizes: Tensor) -> RoISamples:
        """Return samples with the boxes that deltas (B, S, K or 1, 4) predict for their classes, inside the images."""
        moved = self.box_head.moved(samples.boxes[:, :, None], deltas, sizes)  # (B, S, K or 1, 4)
        own = samples.labels.clamp(0, moved.shape[2] - 1)
        return samples._replace(boxes=moved.gather(2, own[..., None, None].expand(-1, -1, 1, 4)).squeeze(2))
