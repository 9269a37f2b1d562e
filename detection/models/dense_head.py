"""What the heads of one-stage detectors have in common: convolutions, prior, the best candidates.

B images   N candidates of all levels, N_l of level l   K classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detection.models.anchors import Anchors, CanvasAnchors
from detection.models.conv_stack import ConvStack
from detection.ops import boxes as box_ops
from detection.structures import IGNORE, Batch, Detections, Targets

Select = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""Return boxes, scores, labels and candidates of the detections, from boxes (B, N, 4) and scores (B, N, K)."""
Divisor = Callable[[Tensor, float], Tensor]
"""Return the number to divide the sum of a loss by, from the count of positives in this batch and its lower limit."""


@dataclass(frozen=True)
class DenseHeadConfig:
    """What the heads of one-stage detectors have in common."""

    convs: int = 4
    """3x3 convolutions before the classes, and as many before the boxes."""
    norm: Literal["batch", "sync", "group"] | None = None
    """Norm after each of them."""
    prior: float = 0.01
    """Score of every class at the start of training, which keeps the many negatives from a large loss."""
    alpha: float = 0.25
    """Weight of the positives in the focal loss; negatives have 1 - alpha."""
    gamma: float = 2.0
    """How much less the focal loss counts a sure answer; 0 is cross entropy."""
    candidates: int = 1000
    """Best scores per level that enter the NMS."""
    score_threshold: float = 0.05
    """Detections with lower scores are dropped."""
    nms_threshold: float = 0.5
    """Of two detections of one class that overlap more, the better one stays."""
    nms_across_classes: bool = False
    """Of two detections of any classes that overlap more, the better one stays: one object has one class."""
    soft_sigma: float = 0.0
    """Above 0, overlapping detections lose score instead of being dropped (soft-NMS; 0.5 in its paper)."""
    detections: int = 100
    """Detections per image at most."""
    min_size: float = 1e-2
    """Detections with a shorter side, in pixels, are dropped."""


class DenseHead(nn.Module):
    """Convolutions for classes and for boxes, shared by all levels.

    A subclass adds what predicts the boxes, and has :meth:`losses` and :meth:`candidates`.

    Args:
        channels: of the pyramid.
        num_classes: K, without background.
        per_cell: boxes of a cell.
        bias: give convolutions before a norm a bias, too.

    Raises:
        ValueError: a prior that is no probability.
    """

    loss_names: tuple[str, ...]
    """Names of the losses, in order."""
    needs: tuple[str, ...] = ()
    """Fields of the targets that the losses need beside boxes and labels."""
    missing = ""
    """Error message if the targets lack these fields."""
    kind: str
    """Name of the detector."""
    anchors: Anchors
    """The boxes at every cell that predictions belong to."""
    divisor: Divisor
    """Divisor of the losses; a training on several devices replaces it by the mean over the devices."""

    def __init__(
        self, channels: int, num_classes: int, per_cell: int, config: DenseHeadConfig, bias: bool = False
    ) -> None:
        super().__init__()
        if not 0 < config.prior < 1:
            raise ValueError(f"prior is {config.prior}; it must be above 0 and below 1")
        self.num_classes, self.config, self.divisor = num_classes, config, at_least
        # The coarsest level can be one cell, on which a group of one channel would lose everything.
        self.class_convs = ConvStack(channels, [channels] * config.convs, config.norm, bias, least=2)
        self.box_convs = ConvStack(channels, [channels] * config.convs, config.norm, bias, least=2)
        self.logits = nn.Conv2d(channels, per_cell * num_classes, 3, padding=1)
        for layer in (*self.class_convs, *self.box_convs, self.logits):
            if isinstance(layer, nn.Conv2d):
                start(layer)
        nn.init.constant_(self.logits.bias, -math.log((1 - config.prior) / config.prior))  # type: ignore[arg-type]

    def losses(self, features: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return scalar losses by name, from a batch with targets."""
        raise NotImplementedError

    def candidates(self, features: Sequence[Tensor], canvas: tuple[int, int], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes (B, N, 4) that may become detections, and their scores (B, N, K).

        Args:
            features: P3...
            canvas: height, width in pixels.
            sizes: (B, 2) height, width of the images.
        """
        raise NotImplementedError

    def detect(self, features: Sequence[Tensor], canvas: tuple[int, int], sizes: Tensor, select: Select) -> Detections:
        """Return the selected candidates; arguments as for :meth:`candidates`."""
        boxes, scores = self.candidates(features, canvas, sizes)
        return Detections(*select(boxes, scores)[:3])

    def canvas_anchors(self, features: Sequence[Tensor], canvas: tuple[int, int]) -> CanvasAnchors:
        """Return the anchors on the cells of a pyramid."""
        return self.anchors(canvas, tuple((x.shape[2], x.shape[3]) for x in features), features[0].device)

    def best(self, rank: Tensor) -> Tensor:
        """Return the index (B, n) of the best cells or anchors of a level, by the rank (B, N_l) of their best class."""
        return rank.topk(min(self.config.candidates, rank.shape[1])).indices

    def of_all_levels(self, boxes: Sequence[Tensor], scores: Sequence[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the candidates of all levels: boxes (B, N, 4) clipped to their images, scores (B, N, K).

        Args:
            boxes: per level (B, n, 4).
            scores: per level (B, n, K); all but the best ``candidates`` of a level become zero.
            sizes: (B, 2) height, width of the images.
        """
        box = box_ops.clip(torch.cat(list(boxes), dim=1), sizes)
        score = torch.cat([self._best_scores(level) for level in scores], dim=1)
        small = (box[..., 2:] - box[..., :2]).amin(dim=-1) < self.config.min_size
        return box, score.masked_fill(small[..., None], 0)

    def _best_scores(self, scores: Tensor) -> Tensor:
        """(B, n, K), zero but for the best ``candidates``; equal ones may be a few more."""
        flat = scores.flatten(1)
        least = flat.topk(min(self.config.candidates, flat.shape[1])).values[:, -1:]
        return scores.masked_fill(scores < least[..., None], 0)


def at_least(count: Tensor, least: float) -> Tensor:
    """Return the count of one device as a divisor."""
    return count.clamp(min=least)


def start(layer: nn.Conv2d) -> None:
    """Set a convolution's first values (RetinaNet, section 4.1)."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def rows(maps: Tensor, width: int) -> Tensor:
    """Return predictions (B, N_l, width) out of maps (B, A * width, H_l, W_l), in float32."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width).float()


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return some of the candidates: (B, N, C) and (B, n) to (B, n, C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def target_classes(targets: Targets, matched: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return the class (B, N) that each candidate should have: K where it is negative, IGNORE where it is neither.

    Args:
        matched: (B, N) int64, the object of each positive.
        label: (B, N) int64: 1 positive, 0 negative, IGNORE.
    """
    classes = torch.where(label == 1, targets.labels.gather(1, matched), num_classes)
    return classes.masked_fill(label == IGNORE, IGNORE)
