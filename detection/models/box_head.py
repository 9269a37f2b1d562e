"""The box head: predicts the class of each RoI and refines its box.

B images   P proposals   G ground truths   S RoI samples   K classes   D detections   r RoI resolution.
Girshick 2015 (Fast R-CNN), section 2; on a pyramid: Lin et al. 2017 (FPN), section 4.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.conv_stack import ConvStack
from detection.models.roi_linear import as_roi_linear, channels_last
from detection.ops import boxes as box_ops
from detection.ops.matching import match, sample
from detection.ops.roi_align import roi_align
from detection.ops.selection import best_detections
from detection.structures import IGNORE, Detections, Proposals, RoISamples, Targets


@dataclass(frozen=True)
class BoxHeadConfig:
    """Layers, training samples and detections of the box head."""

    hidden: int = 1024
    """Width of the fully connected layers."""
    fcs: int = 2
    """Number of fully connected layers."""
    convs: int = 0
    """Number of 3x3 convolutions before them; the stronger head of Wu and He 2018 has 4, and 1 connected layer."""
    norm: Literal["batch", "sync", "group", "layer"] | None = None
    """Norm after each of these convolutions."""
    resolution: int = 7
    """Side of the pooled RoI features, in cells."""
    sampling_ratio: int = 2
    """Samples of RoIAlign per bin and axis; 0: one per feature cell that the bin covers (detectron2)."""
    aligned: bool = True
    """Shift RoIs by half a pixel, so that features belong to pixel centres; torchvision does not."""
    samples: int = 512
    """RoIs per image in the loss."""
    positive_fraction: float = 0.25
    """Largest fraction of positive RoIs (Fast R-CNN, section 2.3)."""
    threshold: float = 0.5
    """A RoI whose best IoU is at least this is positive, any other negative."""
    beta: float = 0.0
    """Error at which the box loss changes from squared to linear; 0: plain L1 (detectron2); torchvision uses 1/9."""
    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Factors of the deltas x, y, width, height; about one over their standard deviations."""
    class_agnostic: bool = False
    """Predict one box per RoI instead of one per class."""
    score_threshold: float = 0.05
    """Smallest score of a detection; 0.05 is usual for COCO."""
    nms_threshold: float = 0.5
    """Of two detections of one class with a larger IoU, keep only the better one."""
    nms_across_classes: bool = False
    """Apply the NMS across classes, so that each object has only one class."""
    soft_sigma: float = 0.0
    """Above 0: reduce the scores of overlapping detections instead of dropping them (soft-NMS; 0.5 in its paper)."""
    refinements: int = 0
    """Number of additional box refinements, before the mask head (test time only)."""
    detections: int = 100
    """Largest number of detections per image."""
    min_size: float = 1e-2
    """Smallest side of a detection, in pixels."""
    clamp_both: bool = False
    """Limit how far a proposal can shrink, not only how far it can grow, as mmdetection does."""


class BoxHead(nn.Module):
    """Predict class logits and deltas of RoIs; compute samples and losses in training, detections at test time.

    Args:
        channels: channels of the pyramid.
        num_classes: K, without background.
        strides: strides of the levels from which RoIs are pooled.
    """

    loss_names = ("loss_cls", "loss_box_reg")

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: BoxHeadConfig) -> None:
        super().__init__()
        self.num_classes, self.strides, self.config = num_classes, tuple(strides), config
        resolution, hidden = config.resolution, config.hidden
        self.convs = ConvStack(channels, [channels] * config.convs, config.norm)
        self.fcs = nn.ModuleList(
            RoILinear(channels, resolution, hidden) if i == 0 else nn.Linear(hidden, hidden) for i in range(config.fcs)
        )
        for fc in self.fcs[1:]:
            nn.init.kaiming_uniform_(fc.weight, a=1)  # type: ignore[arg-type]
            nn.init.zeros_(fc.bias)  # type: ignore[arg-type]
        features = hidden if config.fcs else channels * resolution**2
        self.logits = nn.Linear(features, num_classes + 1)
        self.deltas = nn.Linear(features, 4 * (1 if config.class_agnostic else num_classes))
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, S, K + 1), background last, and deltas (B, S, K or 1, 4), both float32.

        Args:
            features: P2...
            rois: (B, S, 4).
        """
        x = self.convs(self.pool(features, rois).flatten(0, 1))
        for fc in self.fcs:
            x = fc(x).relu()
        x = x.flatten(1)
        return self.logits(x).float().unflatten(0, rois.shape[:2]), self.deltas(x).float().view(*rois.shape[:2], -1, 4)

    def pool(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return the features of RoIs, (B, S, C, r, r)."""
        config = self.config
        return roi_align(features, self.strides, rois, config.resolution, config.sampling_ratio, config.aligned)

    @torch.no_grad()
    def sample(self, proposals: Proposals, targets: Targets, generator: torch.Generator | None = None) -> RoISamples:
        """Draw the RoIs for the loss from proposals and ground-truth boxes."""
        config = self.config
        boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)  # (B, P + G, 4)
        real = torch.cat([proposals.logits > -torch.inf, (targets.labels != IGNORE) & ~targets.crowd], dim=1)
        matched, label = self.match(targets, boxes)
        label = label.masked_fill(~real, IGNORE)
        index, label = sample(label, config.samples, config.positive_fraction, generator)
        matched = matched.gather(1, index)
        labels = torch.where(label == 1, targets.labels.gather(1, matched), label)
        labels = labels.masked_fill(label == 0, self.num_classes)
        positives = int(config.samples * config.positive_fraction)
        return RoISamples(boxes.gather(1, index[..., None].expand(-1, -1, 4)), labels, matched, positives)

    def match(self, targets: Targets, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best ground truth (B, N) of each box (B, N, 4) and its label (B, N); see :func:`match`."""
        threshold = self.config.threshold
        return match(targets.boxes, targets.crowd, boxes, threshold, threshold)

    def losses(self, features: Sequence[Tensor], samples: RoISamples, targets: Targets) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box_reg`` (Fast R-CNN, equation 1).

        Both are divided by the number of all samples, not of positives. So every positive has the same weight, in
        whichever image it is.
        """
        logits, deltas = self(features, samples.boxes)
        return self.losses_of(logits, deltas, samples, targets)

    def losses_of(self, logits: Tensor, deltas: Tensor, samples: RoISamples, targets: Targets) -> dict[str, Tensor]:
        """Return the losses of what :meth:`forward` predicts for the samples."""
        valid = samples.labels != IGNORE
        positive = valid & (samples.labels < self.num_classes)
        count = valid.sum().clamp(min=1)
        truth = targets.boxes.gather(1, samples.matched[..., None].expand(-1, -1, 4))
        target = box_ops.encode(truth, samples.boxes, self.config.weights)
        loss = F.smooth_l1_loss(_of_own_class(deltas, samples.labels), target, beta=self.config.beta, reduction="none")
        classes = F.cross_entropy(logits.flatten(0, 1), samples.labels.flatten(), ignore_index=IGNORE, reduction="sum")
        return {
            "loss_cls": classes / count,
            "loss_box_reg": loss.masked_fill(~positive[..., None], 0).sum() / count,
        }

    def detect(self, features: Sequence[Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """Return the best boxes after NMS within each class, clipped to the image."""
        logits, deltas = self(features, proposals.boxes)
        boxes = self.moved(proposals.boxes[:, :, None], deltas, sizes)  # (B, P, K or 1, 4)
        return self.refine(features, self.select(logits.softmax(dim=-1), boxes, proposals), sizes)

    def select(self, scores: Tensor, boxes: Tensor, proposals: Proposals) -> Detections:
        """Choose detections from scores (B, P, K + 1) and boxes (B, P, K or 1, 4) of proposals."""
        unusable = self.is_small(boxes) | proposals.logits.isneginf()[..., None]
        scores = scores[..., : self.num_classes].masked_fill(unusable, 0)
        return best_detections(boxes, scores, self.config)

    def refine(self, features: Sequence[Tensor], detections: Detections, sizes: Tensor) -> Detections:
        """Return the detections after ``refinements`` more passes through the head; scores stay.

        Iterative localization (Gidaris and Komodakis 2015, arXiv 1505.01749): a better box shows the head more of its
        object. A box that would become too small, as at the edge of the image, does not move.
        """
        boxes = detections.boxes
        for _ in range(self.config.refinements):
            _, deltas = self(features, boxes)
            moved = self.moved(boxes, _of_own_class(deltas, detections.labels), sizes)  # (B, D, 4)
            boxes = torch.where(self.is_small(moved)[..., None], boxes, moved)  # padding counts as small
        return detections._replace(boxes=boxes)

    def moved(self, boxes: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
        """Apply deltas to boxes (B, S, ..., 4) and clip them to their images."""
        moved = box_ops.decode(deltas, boxes, self.config.weights, clamp_both=self.config.clamp_both)
        return box_ops.clip(moved.flatten(1, -2), sizes).view_as(moved)

    def is_small(self, boxes: Tensor) -> Tensor:
        """Return which boxes have a side shorter than ``min_size``."""
        return (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) < self.config.min_size


def _of_own_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Return the deltas of each RoI's class, (B, S, K or 1, 4) to (B, S, 4); of any class if a RoI has none."""
    column = labels.clamp(0, deltas.shape[2] - 1)
    return deltas.gather(2, column[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)


class RoILinear(nn.Module):
    """``nn.Linear(C * r * r, outputs)`` on flattened RoIs, channels last.

    RoIAlign returns features channels last. Other detectors flatten them channels first, which copies all RoIs. Only
    the order of the sum differs. The weight is (outputs, r * r, C). Files hold it as a linear layer's weight
    (outputs, C * r * r), see :func:`as_linear`; this layer loads both.
    """

    def __init__(self, channels: int, resolution: int, outputs: int) -> None:
        super().__init__()
        weight = torch.empty(outputs, channels * resolution**2)
        nn.init.kaiming_uniform_(weight, a=1)
        self.weight = nn.Parameter(channels_last(weight, channels).contiguous())  # (outputs, r * r, C)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, r, r) to (R, outputs)."""
        return F.linear(x.permute(0, 2, 3, 1).flatten(1), self.weight.flatten(1), self.bias)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        if prefix + "weight" in state_dict:
            state_dict[prefix + "weight"] = as_roi_linear(state_dict[prefix + "weight"], self.weight)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        outputs, cells, channels = self.weight.shape
        return f"{channels} x {cells}, {outputs}"
