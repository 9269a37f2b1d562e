"""Match candidates to ground truth, and sample them for the loss.

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
    """Find the best ground truth of every candidate, and label the candidate.

    A candidate with an IoU of at least ``high`` is positive, below ``low`` negative, between them IGNORE. With
    ``keep_best``, the best candidates of every object are also positive (Faster R-CNN, section 3.1.2, rule i). A crowd
    matches no candidate. Candidates with ``crowd_threshold`` of their area in a crowd are IGNORE, unless positive.

    Args:
        boxes: (B, G, 4) ground truth, G >= 1.
        crowd: (B, G) bool.
        candidates: (N, 4), the same for all images, or (B, N, 4).
        chunk: pairs to compare at a time, but at least one object per image. It limits the memory (about 20 bytes per
            pair) and does not change the result. The default fits into the cache of a CPU.

    Returns:
        index: (B, N) int64 into G; of several equally good objects, the first.
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
        # One division for both measures: the IoU, or for a crowd the negative fraction that lies in it.
        quality.div_(torch.where(is_crowd, -own_area, union))
        part_best, part_index = quality.max(dim=1)
        # Strictly better only: of equal objects, the first stays, as without chunks.
        index = torch.where(part_best > best, part_index + start, index)
        best = torch.maximum(best, part_best)
        covered = torch.maximum(covered, -quality.amin(dim=1))
        if keep_best:
            top = quality.amax(dim=2, keepdim=True)  # (B, g, 1)
            # An object without overlap has top == 0; without the mask it would claim every candidate.
            claimed |= (quality == top.masked_fill(top <= 0, torch.inf)).any(dim=1)
    return index, labels(best, claimed, covered, low, high, crowd_threshold)


def labels(
    best: Tensor, claimed: Tensor, covered: Tensor, low: float, high: float, crowd_threshold: float = 0.5
) -> Tensor:
    """Return the labels of candidates, (B, N) int64; see :func:`match`.

    Args:
        best: (B, N) IoU with the best object.
        claimed: (B, N) bool, whether the candidate is the best one of an object.
        covered: (B, N) fraction of the candidate that lies in a crowd.
    """
    label = torch.where(best >= high, 1, torch.where(best < low, 0, IGNORE))
    label = label.masked_fill(claimed, 1)
    return label.masked_fill((covered >= crowd_threshold) & (label != 1), IGNORE)


def sample(
    label: Tensor, num: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw ``num`` candidates per image for the loss, positives first (Faster R-CNN, section 3.1.3).

    At most ``num * positive_fraction`` are positive, and negatives fill the rest. If there are too few, IGNORE fills
    the remaining places. Each possible set is equally likely.

    Args:
        label: (B, N) from :func:`match`.
        generator: random generator, on any device.

    Returns:
        index: (B, num) int64 into N, without repetition where the label is not IGNORE.
        label: (B, num) int64.
    """
    batch, total = label.shape
    most = min(int(num * positive_fraction), total)
    device = label.device if generator is None else generator.device
    key = torch.rand((batch, total), generator=generator, device=device).to(label.device)
    positives = key.masked_fill(label != 1, 2).topk(most, largest=False).indices
    negatives = key.masked_fill(label != 0, 2).topk(min(num, total), largest=False).indices
    # (B, 1); the counts exclude the ends of both lists, which other candidates (key 2) fill.
    num_positive = (label == 1).sum(dim=1, keepdim=True).clamp(max=most)
    num_negative = (label == 0).sum(dim=1, keepdim=True)
    slot = torch.arange(num, device=label.device).expand(batch, -1)
    is_positive, place = slot < num_positive, slot - num_positive
    pool = torch.cat([positives, negatives], dim=1)
    column = torch.where(is_positive, slot, place + most).clamp(max=pool.shape[1] - 1)
    drawn = torch.where(is_positive, 1, torch.where(place < num_negative, 0, IGNORE))
    return pool.gather(1, column), drawn
