"""Matching candidates to ground truth, and sampling them for the loss.

B images, G ground truths (padded), N candidates.
Labels: 1 positive, 0 negative, IGNORE (-1) neither.  Boxes: XYXY in canvas pixels, zero on padding.
"""

import torch
from torch import Tensor

from detection.ops.boxes import area, intersection, positive
from detection.structures import IGNORE


def match(
    boxes: Tensor,
    crowd: Tensor,
    candidates: Tensor,
    low: float,
    high: float,
    keep_best: bool = False,
    crowd_threshold: float = 0.5,
    chunk: int = 2**20,
) -> tuple[Tensor, Tensor]:
    """Give every candidate its best ground truth and a label.

    Positive from an IoU of ``high`` on, negative below ``low``, IGNORE between. With ``keep_best`` the best candidates
    of every object become positive however small their IoU (Faster R-CNN, section 3.1.2, rule i). A crowd is never
    matched; candidates that lie in it by ``crowd_threshold`` of their own area become IGNORE unless they are positive.

    Args:
        boxes: (B, G, 4) ground truth, G >= 1.
        crowd: (B, G) bool.
        candidates: (N, 4), the same for all images, or (B, N, 4).
        chunk: pairs that are compared at a time, but at least one object of each image. It bounds the memory (some 20
            bytes a pair) and never changes the result. A chunk of this size fits the cache of a CPU.

    Returns:
        index: (B, N) int64 into G, the first of equally good ones.
        label: (B, N) int64.
    """
    candidates = candidates.expand(len(boxes), -1, -1)
    own_area = positive(area(candidates))[:, None]  # (B, 1, N)
    best = candidates.new_zeros(candidates.shape[:2])
    covered = torch.zeros_like(best)
    index = torch.zeros_like(best, dtype=torch.int64)
    claimed = torch.zeros_like(best, dtype=torch.bool)
    step = max(1, chunk // max(1, best.numel()))
    for start in range(0, boxes.shape[1], step):
        part, is_crowd = boxes[:, start : start + step], crowd[:, start : start + step, None]
        quality = intersection(part, candidates)  # (B, g, N)
        union = (area(part)[..., None] + own_area).sub_(quality)
        # One division for both measures: IoU, or below zero the part that lies in a crowd.
        quality.div_(torch.where(is_crowd, -own_area, union))
        part_best, part_index = quality.max(dim=1)
        # Strictly better: of equal ones the first stays, as if there were no chunks.
        index = torch.where(part_best > best, part_index + start, index)
        best = torch.maximum(best, part_best)
        covered = torch.maximum(covered, -quality.amin(dim=1))
        if keep_best:
            top = quality.amax(dim=2, keepdim=True)  # (B, g, 1)
            # An object that touches no candidate has top == 0 and would claim all of them.
            claimed |= (quality == top.masked_fill(top <= 0, torch.inf)).any(dim=1)
    return index, labels(best, claimed, covered, low, high, crowd_threshold)


def labels(
    best: Tensor, claimed: Tensor, covered: Tensor, low: float, high: float, crowd_threshold: float = 0.5
) -> Tensor:
    """What becomes of candidates, (B, N) int64; see :func:`match`.

    Args:
        best: (B, N) IoU with the best object.
        claimed: (B, N) bool: the best candidate of some object.
        covered: (B, N) part that lies in a crowd.
    """
    label = torch.where(best >= high, 1, torch.where(best < low, 0, IGNORE))
    label = label.masked_fill(claimed, 1)
    return label.masked_fill((covered >= crowd_threshold) & (label != 1), IGNORE)


def sample(
    label: Tensor, num: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw ``num`` candidates per image for the loss, positives first (Faster R-CNN, section 3.1.3).

    At most ``num * positive_fraction`` are positive; negatives fill the rest; what is still missing is IGNORE. Each
    set of that size is equally likely.

    Args:
        label: (B, N) from :func:`match`.
        generator: its device may be another than the labels'.

    Returns:
        index: (B, num) int64 into N, each at most once where the label is not IGNORE.
        label: (B, num) int64.
    """
    batch, total = label.shape
    most = min(int(num * positive_fraction), total)
    device = label.device if generator is None else generator.device
    key = torch.rand((batch, total), generator=generator, device=device).to(label.device)
    positives = key.masked_fill(label != 1, 2).topk(most, largest=False).indices
    negatives = key.masked_fill(label != 0, 2).topk(min(num, total), largest=False).indices
    # (B, 1); keys above 1 fill the ends of both lists, hence the counts.
    num_positive = (label == 1).sum(dim=1, keepdim=True).clamp(max=most)
    num_negative = (label == 0).sum(dim=1, keepdim=True)
    slot = torch.arange(num, device=label.device).expand(batch, -1)
    is_positive, place = slot < num_positive, slot - num_positive
    pool = torch.cat([positives, negatives], dim=1)
    column = torch.where(is_positive, slot, place + most).clamp(max=pool.shape[1] - 1)
    drawn = torch.where(is_positive, 1, torch.where(place < num_negative, 0, IGNORE))
    return pool.gather(1, column), drawn
