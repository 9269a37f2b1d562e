"""Detections from scored boxes: NMS within each class, then the best boxes of each image.

B images   N boxes   K classes.  Boxes: XYXY.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.ops.boxes import iou
from detection.ops.nms import can_survive, nms
from detection.ops.operators import operator, shape_of
from detection.structures import IGNORE, Detections


@operator
def select_detections(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    num: int,
    soft_sigma: float = 0.0,
    across_classes: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the best ``num`` boxes of each image after NMS within each class, or across classes.

    Args:
        boxes: (B, N, K, 4), or (B, N, 1, 4) if a box is the same for all classes.
        scores: (B, N, K). Boxes with a score above ``score_threshold`` take part, except those with NaN or Inf.
        soft_sigma: if above 0, use :func:`soft_nms` instead of NMS, and drop scores that fall to ``score_threshold``.
        across_classes: a box suppresses boxes of all classes, not only of its own class.

    Returns:
        boxes: (B, num, 4) by falling score; boxes with equal scores keep their order. Zero on padding.
        scores: (B, num); zero on padding.
        labels: (B, num) int64; IGNORE on padding.
        index: (B, num) int64 into N; zero on padding.
    """
    batch, _, classes = scores.shape
    image, index, label = (scores > score_threshold).nonzero(as_tuple=True)
    score = scores[image, index, label]
    box = boxes[image, index, label if boxes.shape[2] > 1 else 0]  # (candidates, 4)
    order = score.argsort(descending=True, stable=True)
    own_list = image if across_classes else image * classes + label
    order = order[own_list[order].argsort(stable=True)]  # by image, class, falling score
    image, index, label, score, box = (x[order] for x in (image, index, label, score, box))

    _, lengths = own_list[order].unique_consecutive(return_counts=True)
    row, column = _places(lengths, len(image))
    shape = (len(lengths), int(F.pad(lengths, (0, 1)).amax()))
    lists = box.new_zeros((*shape, 4)).index_put((row, column), box)
    list_scores = score.new_full(shape, -torch.inf).index_put((row, column), score)
    if soft_sigma > 0:
        score = soft_nms(lists, list_scores, soft_sigma, num)[row, column]
        keep = score > score_threshold
    else:
        keep = nms(lists, list_scores, iou_threshold)[row, column]
    kept = keep.nonzero()[:, 0]  # once for all five tensors: each call synchronises with the GPU
    image, index, label, score, box = (x[kept] for x in (image, index, label, score, box))

    # Restore the order of the candidates first, as it decides between equal scores.
    order = (index * classes + label).argsort(stable=True)
    order = order[score[order].argsort(descending=True, stable=True)]
    order = order[image[order].argsort(stable=True)]
    number = (image == torch.arange(batch, device=image.device)[:, None]).sum(dim=1)
    row, column = _places(number, len(image))
    best = (column < num).nonzero()[:, 0]
    order, row, column = (x[best] for x in (order, row, column))
    return (
        box.new_zeros((batch, num, 4)).index_put((row, column), box[order]),
        score.new_zeros((batch, num)).index_put((row, column), score[order]),
        label.new_full((batch, num), IGNORE).index_put((row, column), label[order]),
        index.new_zeros((batch, num)).index_put((row, column), index[order]),
    )


class Selection(Protocol):
    """The settings of a head that choose its detections."""

    @property
    def score_threshold(self) -> float:
        """Smallest score of a detection."""

    @property
    def nms_threshold(self) -> float:
        """Largest IoU of two detections of a class."""

    @property
    def detections(self) -> int:
        """Largest number of detections per image."""

    @property
    def soft_sigma(self) -> float:
        """Width of the Gaussian of soft-NMS; 0 for ordinary NMS."""

    @property
    def nms_across_classes(self) -> bool:
        """Apply the NMS across classes."""


def select_by(config: Selection, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call :func:`select_detections` with the settings of a head."""
    limits = config.score_threshold, config.nms_threshold, config.detections
    return select_detections(boxes, scores, *limits, config.soft_sigma, config.nms_across_classes)


def best_detections(boxes: Tensor, scores: Tensor, config: Selection) -> Detections:
    """Return the detections that the settings of a head choose; see :func:`select_detections`."""
    return Detections(*select_by(config, boxes, scores)[:3])


@shape_of(select_detections)
def _(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    num: int,
    soft_sigma: float = 0.0,
    across_classes: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = scores.shape[0]  # not len(scores), which makes an exported batch size constant
    whole = scores.new_empty((batch, num), dtype=torch.int64)
    return boxes.new_empty((batch, num, 4)), scores.new_empty((batch, num)), whole, whole.clone()


def soft_nms(boxes: Tensor, scores: Tensor, sigma: float, rounds: int) -> Tensor:
    """Return scores after soft-NMS with a Gaussian (Bodla et al. 2017, section 3).

    In each round, the best remaining box of a list keeps its score, and the scores of all other remaining boxes are
    multiplied by exp(-IoU^2 / sigma).

    Args:
        boxes: (L, N, 4).
        scores: (L, N); -inf on padding.
        sigma: width of the Gaussian; a larger value reduces scores less.
        rounds: largest number of boxes to take from each list.

    Returns:
        (L, N) scores; -inf on padding, for boxes that were not taken, and for NaN or Inf.
    """
    valid = can_survive(boxes, scores)
    left = scores.masked_fill(~valid, -torch.inf)
    boxes = boxes.masked_fill(~valid[..., None], 0)
    final = torch.full_like(left, -torch.inf)
    for _ in range(min(rounds, left.shape[1])):
        best, place = left.max(dim=1, keepdim=True)  # (L, 1)
        final = final.scatter(1, place, torch.where(best > -torch.inf, best, final.gather(1, place)))
        overlap = iou(boxes.gather(1, place[..., None].expand(-1, -1, 4)), boxes).squeeze(1)  # (L, N)
        left = (left * torch.exp(-overlap.square() / sigma)).scatter(1, place, -torch.inf)
    return final


def _places(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return row and column of each entry, if ``total`` entries fill rows of the given lengths one after the other."""
    starts = lengths.cumsum(0) - lengths
    row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)
    return row, torch.arange(total, device=lengths.device) - starts[row]
