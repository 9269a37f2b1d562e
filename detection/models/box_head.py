"""The box head: which class is in each RoI, and where exactly?

B images   P proposals   G ground truths   S RoI samples   K classes   D detections   r RoI resolution.
Girshick 2015 (Fast R-CNN), section 2; on a pyramid: Lin et al. 2017 (FPN), section 4.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.conv import Conv2d, is_plain
from backbones.fused import conv_relu
from backbones.norms import make_norm
from detection.models.roi_linear import RoILinear
from detection.ops import boxes as box_ops
from detection.ops.levels import Levels
from detection.ops.matching import match, sample
from detection.ops.nms import select_detections
from detection.ops.roi_align import roi_align
from detection.structures import IGNORE, Detections, Proposals, RoISamples, Targets


@dataclass(frozen=True)
class BoxHeadConfig:
    """Layers, training samples and detections."""

    hidden: int = 1024
    """Width of the fully connected layers."""
    fcs: int = 2
    """Fully connected layers."""
    convs: int = 0
    """3x3 convolutions before them (4 convolutions and 1 layer in the stronger head of Wu and He 2018)."""
    norm: Literal["batch", "sync", "group"] | None = None
    """Norm after each of those convolutions."""
    resolution: int = 7
    """Side of the RoI's features."""
    sampling_ratio: int = 2
    """Sampling points per cell and side; 0 takes as many as the RoI is large (detectron2)."""
    aligned: bool = True
    """Sample half a pixel further left and up, as pixel centres want it; torchvision does not."""
    samples: int = 512
    """RoIs per image that enter the loss."""
    positive_fraction: float = 0.25
    """At most this part of them is positive (Fast R-CNN, section 2.3)."""
    threshold: float = 0.5
    """RoIs whose best IoU reaches this are positive, the others negative."""
    beta: float = 0.0
    """Where the box loss turns from squared to linear; 0 is plain L1 (detectron2), torchvision has 1/9."""
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Scale of the deltas, about one over their standard deviation."""
    class_agnostic: bool = False
    """One box per RoI instead of one per class."""
    score_threshold: float = 0.05
    """Detections scored below are dropped (0.05 is the COCO habit)."""
    nms_threshold: float = 0.5
    """Of two detections of one class that overlap more, the better one stays."""
    soft_sigma: float = 0.0
    """Above 0, overlapping detections lose score instead of being dropped (soft-NMS; 0.5 in its paper)."""
    refinements: int = 0
    """How often the boxes of the detections are moved once more, before masks are made in them (test time only)."""
    detections: int = 100
    """Detections per image at most."""
    min_size: float = 1e-2
    """Detections with a shorter side, in pixels, are dropped."""
    clamp_both: bool = False
    """Limit how far a proposal may shrink, not only how far it may grow, as mmdetection does."""


class BoxHead(nn.Module):
    """Class logits and per-class deltas of RoIs; samples and losses in training, detections at test time."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        hidden: int = 1024,
        fcs: int = 2,
        convs: int = 0,
        norm: Literal["batch", "sync", "group"] | None = None,
        resolution: int = 7,
        sampling_ratio: int = 2,
        aligned: bool = True,
        samples: int = 512,
        positive_fraction: float = 0.25,
        threshold: float = 0.5,
        beta: float = 0.0,
        weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        class_agnostic: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        soft_sigma: float = 0.0,
        refinements: int = 0,
        detections: int = 100,
        min_size: float = 1e-2,
        clamp_both: bool = False,
    ) -> None:
        super().__init__()
        self.convs = ConvStack(channels, [channels] * convs, norm)
        width = channels * resolution**2
        self.fcs = nn.ModuleList(
            RoILinear(channels, resolution, hidden) if i == 0 else nn.Linear(hidden, hidden) for i in range(fcs)
        )
        for fc in self.fcs[1:]:
            nn.init.kaiming_uniform_(fc.weight, a=1)  # type: ignore[arg-type]
            nn.init.zeros_(fc.bias)  # type: ignore[arg-type]
        features = hidden if fcs else width
        self.logits = nn.Linear(features, num_classes + 1)
        self.deltas = nn.Linear(features, 4 * (1 if class_agnostic else num_classes))
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.deltas.bias)
        self.num_classes, self.strides = num_classes, tuple(strides)
        self.resolution, self.sampling_ratio, self.aligned = resolution, sampling_ratio, aligned
        self.samples, self.positive_fraction, self.threshold = samples, positive_fraction, threshold
        self.beta, self.weights = beta, weights
        self.score_threshold, self.nms_threshold, self.soft_sigma = score_threshold, nms_threshold, soft_sigma
        self.refinements = refinements
        self.detections, self.min_size, self.clamp_both = detections, min_size, clamp_both

    @property
    def max_positives(self) -> int:
        """Positive RoIs per image at most; they come first in :class:`RoISamples`."""
        return int(self.samples * self.positive_fraction)

    def forward(self, levels: Levels, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S, K + 1), background last, and deltas (B, S, K or 1, 4), both float32.

        Args:
            levels: P2.., as a table.
            rois: (B, S, 4).
        """
        pooled = roi_align(levels, self.strides, rois, self.resolution, self.sampling_ratio, self.aligned)
        pooled = pooled.flatten(0, 1)
        x = self.convs(pooled)
        for fc in self.fcs:
            # What RoIAlign made is needed nowhere else; the ReLU of a convolution needs its result.
            x = (fc(x, overwrite=x is pooled) if isinstance(fc, RoILinear) else fc(x)).relu_()
        x = x.flatten(1)
        shape = rois.shape[:2]
        return self.logits(x).float().view(*shape, -1), self.deltas(x).float().view(*shape, -1, 4)

    @torch.no_grad()
    def sample(self, proposals: Proposals, targets: Targets, generator: torch.Generator | None = None) -> RoISamples:
        """Draw the RoIs for the loss from the proposals and the ground truth itself."""
        boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)  # (B, P + G, 4)
        real = torch.cat([proposals.logits > -torch.inf, (targets.labels != IGNORE) & ~targets.crowd], dim=1)
        matched, label = match(targets.boxes, targets.crowd, boxes, self.threshold, self.threshold)
        index, label = sample(label.masked_fill(~real, IGNORE), self.samples, self.positive_fraction, generator)
        matched = matched.gather(1, index)
        labels = torch.where(label == 1, targets.labels.gather(1, matched), label)
        labels = labels.masked_fill(label == 0, self.num_classes)
        return RoISamples(boxes.gather(1, index[..., None].expand(-1, -1, 4)), labels, matched)

    def losses(self, levels: Levels, samples: RoISamples, targets: Targets) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box_reg`` (Fast R-CNN, equation 1), both over all samples.

        The box loss is divided by all samples, not by the positives: every positive then weighs the same, whichever
        image it comes from.
        """
        logits, deltas = self(levels, samples.boxes)
        valid = samples.labels != IGNORE
        positive = valid & (samples.labels < self.num_classes)
        count = valid.sum().clamp(min=1)
        truth = targets.boxes.gather(1, samples.matched[..., None].expand(-1, -1, 4))
        target = box_ops.encode(truth, samples.boxes, self.weights)
        loss = F.smooth_l1_loss(_own(deltas, samples.labels), target, beta=self.beta, reduction="none")
        classes = F.cross_entropy(logits.flatten(0, 1), samples.labels.flatten(), ignore_index=IGNORE, reduction="sum")
        return {
            "loss_cls": classes / count,
            "loss_box_reg": loss.masked_fill(~positive[..., None], 0).sum() / count,
        }

    def detect(self, levels: Levels, proposals: Proposals, sizes: Tensor) -> Detections:
        """The best boxes per class, without near-duplicates, clipped to the image."""
        logits, deltas = self(levels, proposals.boxes)
        scores = logits.softmax(dim=-1)[..., : self.num_classes]
        boxes = box_ops.decode(
            deltas, proposals.boxes[:, :, None], self.weights, clamp_both=self.clamp_both
        )  # (B, P, K or 1, 4)
        boxes = box_ops.clip(boxes.flatten(1, 2), sizes).view_as(boxes)
        small = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) < self.min_size
        padding = proposals.logits.isneginf()[..., None]
        scores = scores.masked_fill(small | padding, 0)
        found = select_detections(
            boxes, scores, self.score_threshold, self.nms_threshold, self.detections, self.soft_sigma
        )
        return self.refine(levels, Detections(*found[:3]), sizes)

    def refine(self, levels: Levels, detections: Detections, sizes: Tensor) -> Detections:
        """The detections, moved :attr:`refinements` times more by the deltas of their class; scores stay.

        Iterative localization (Gidaris and Komodakis 2015, arXiv 1505.01749): a box that is nearer to its object shows
        the head more of it. A box that would be lost at the edge of the image stays.
        """
        boxes = detections.boxes
        for _ in range(self.refinements):
            _, deltas = self(levels, boxes)
            moved = box_ops.decode(
                _own(deltas, detections.labels), boxes, self.weights, clamp_both=self.clamp_both
            )  # (B, D, 4)
            moved = box_ops.clip(moved, sizes)
            small = (moved[..., 2:] - moved[..., :2]).amin(dim=-1) < self.min_size  # padding, too
            boxes = torch.where(small[..., None], boxes, moved)
        return detections._replace(boxes=boxes)


def _own(deltas: Tensor, labels: Tensor) -> Tensor:
    """(B, S, K or 1, 4) to (B, S, 4): the deltas of each RoI's class; of any where it has none."""
    column = labels.clamp(0, deltas.shape[2] - 1)
    return deltas.gather(2, column[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)


class ConvStack(nn.Sequential):
    """3x3 convolutions of the given widths, each with its norm and ReLU."""

    def __init__(self, channels: int, widths: Sequence[int], norm: Literal["batch", "sync", "group"] | None) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            conv = Conv2d(channels, width, 3, padding=1, bias=norm is None)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layers += [conv, nn.ReLU(True)] if norm is None else [conv, make_norm(norm, width), nn.ReLU(True)]
            channels = width
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(R, channels, r, r) to (R, widths[-1], r, r)."""
        convs, relus = list(self)[::2], list(self)[1::2]
        if not all(is_plain(conv) for conv in convs) or not all(is_plain(relu, nn.ReLU) for relu in relus):
            return super().forward(x)  # type: ignore[no-any-return]
        for conv in convs:
            x = conv_relu(x, conv)  # type: ignore[arg-type]
        return x
