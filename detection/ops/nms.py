"""Non-maximum suppression to a fixed number of boxes: the one place whose work depends on the data.

L lists   B images   N candidates   K classes.
Greedy: the best box stays, those that overlap it more than the threshold go, then the next best, and so on.
"""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from detection.ops.boxes import iou
from detection.structures import IGNORE


def nms(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """Which boxes stay, in each of many lists.

    Args:
        boxes: (L, N, 4).
        scores: (L, N) by falling score; -inf is padding, which never stays.
        threshold: a box goes if its IoU with one that stays is larger.
        labels: (L, N); boxes of different labels do not suppress each other.

    Returns:
        (L, N) bool.
    """
    if boxes.device.type == "cpu":
        return _nms_in_turn(boxes, scores, threshold, labels)
    return nms_at_once(boxes, scores, threshold, labels)


def nms_at_once(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """As :func:`nms`, all lists in parallel.

    "Stays" is the fixed point of "no better one that stays suppresses it"; each round settles at least one more box,
    and in practice three to eight rounds settle all.
    """
    valid = scores > -torch.inf
    better = torch.ones(boxes.shape[1], boxes.shape[1], dtype=torch.bool, device=boxes.device).tril(-1)
    suppresses = (iou(boxes, boxes) > threshold) & better  # (L, N, N): the column suppresses the row
    if labels is not None:
        suppresses &= labels[:, :, None] == labels[:, None, :]
    keep = valid
    while True:
        settled = valid & ~(suppresses & keep[:, None, :]).any(dim=2)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def _nms_in_turn(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    """As :func:`nms`, by torchvision's sequential kernel, which is the fastest on a CPU."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for i, count in enumerate((scores > -torch.inf).sum(dim=1).tolist()):
        box, score = boxes[i, :count].float(), scores[i, :count].float()
        if labels is None:
            keep[i, torchvision.ops.nms(box, score, threshold)] = True
            continue
        for label in labels[i, :count].unique():
            members = (labels[i, :count] == label).nonzero()[:, 0]
            keep[i, members[torchvision.ops.nms(box[members], score[members], threshold)]] = True
    return keep


def select_detections(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, num: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ``num`` best boxes per image after class-wise suppression.

    Args:
        boxes: (B, N, K, 4), or (B, N, 1, 4) where all classes share a box.
        scores: (B, N, K).
        score_threshold: only candidates that score more are considered.

    Returns:
        boxes: (B, num, 4) by falling score; zero on padding.
        scores: (B, num); zero on padding.
        labels: (B, num) int64; IGNORE on padding.
        index: (B, num) int64 into N.
    """
    count, classes = len(scores), scores.shape[2]
    finite = scores.isfinite() & boxes.isfinite().all(dim=-1)
    flat = scores.masked_fill(~(finite & (scores > score_threshold)), -torch.inf).flatten(1)  # (B, N * K)
    candidates = int((flat > -torch.inf).sum(dim=1).max()) if count else 0
    # A stable order makes equal scores fall as they come, as a sequential NMS would have it.
    score, order = flat.sort(dim=1, descending=True, stable=True)
    score, order = score[:, :candidates], order[:, :candidates]
    index, label = order // classes, order % classes
    column = label if boxes.shape[2] > 1 else torch.zeros_like(label)
    box = boxes.flatten(1, 2).gather(1, (index * boxes.shape[2] + column)[..., None].expand(-1, -1, 4))
    keep = nms(box, score, iou_threshold, label)
    score = score.masked_fill(~keep, -torch.inf)
    best, chosen = score.sort(dim=1, descending=True, stable=True)
    best, chosen = best[:, :num], chosen[:, :num]
    padding = best.isneginf()
    short = num - best.shape[1]
    box = box.gather(1, chosen[..., None].expand(-1, -1, 4)).masked_fill(padding[..., None], 0)
    return (
        F.pad(box, (0, 0, 0, short)),
        F.pad(best.masked_fill(padding, 0), (0, short)),
        F.pad(label.gather(1, chosen).masked_fill(padding, IGNORE), (0, short), value=IGNORE),
        F.pad(index.gather(1, chosen).masked_fill(padding, 0), (0, short)),
    )
