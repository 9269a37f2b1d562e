"""Give cells their objects by how well their predictions fit: task-aligned assignment.

B images   G ground truths (padded)   N cells   K classes.
Labels: 1 positive, 0 negative, IGNORE (-1) neither.  Boxes: XYXY in canvas pixels, zero on padding.
Feng et al. 2021 (TOOD: Task-aligned One-stage Object Detection), section 3.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from detection.ops.boxes import iou
from detection.ops.centres import sides
from detection.structures import IGNORE


class Aligned(NamedTuple):
    """The objects of cells."""

    matched: Tensor
    """(B, N) int64 into G, the object of each positive."""
    label: Tensor
    """(B, N) int64: 1 positive, 0 negative, IGNORE."""
    quality: Tensor
    """(B, N): the score that a positive should have for its class, 0 to 1; zero for all others."""


@torch.no_grad()
def assign_aligned(
    truth: tuple[Tensor, Tensor, Tensor],
    centres: Tensor,
    scores: Tensor,
    predicted: Tensor,
    cells: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
    chunk: int = 2**22,
) -> Aligned:
    """Give each object the cells inside it whose predictions fit best.

    A prediction fits by ``score ** alpha * IoU ** beta``, with the score of the object's class (equation 4). Of several
    objects, a cell takes the one with the largest IoU. The quality of a cell is its fit, scaled so that the best cell
    of an object has the largest IoU of the object's cells (section 3.2.2).

    Args:
        truth: boxes (B, G, 4), labels (B, G) with IGNORE on padding, and crowds (B, G) bool.
        centres: (N, 2), x and y of the cells.
        scores: (B, N, K), 0 to 1.
        predicted: (B, N, 4).
        cells: largest number of cells for an object.
        alpha, beta: exponents of score and IoU.
        chunk: number of pairs to compare at a time, but at least one object per image; it limits the memory.
    """
    boxes, labels, crowd = truth
    batch, number = labels.shape
    tiny = torch.finfo(torch.float32).tiny
    log_scores = scores.float().clamp(min=tiny).log().transpose(1, 2)  # (B, K, N)
    overlap = boxes.new_zeros(batch, len(centres))
    fit = torch.full_like(overlap, -torch.inf)  # logarithms: powers of a small IoU would become zero
    index = torch.zeros_like(overlap, dtype=torch.int64)
    in_crowd = torch.zeros_like(index, dtype=torch.bool)
    step = max(1, chunk // max(1, overlap.numel()))
    for first in range(0, number, step):
        part = slice(first, first + step)
        inside = sides(centres, boxes[:, part, None]).amin(dim=-1) > 0  # (B, g, N)
        usable = (labels[:, part] != IGNORE) & ~crowd[:, part]
        own = labels[:, part].clamp(min=0)[..., None].expand(-1, -1, len(centres))
        shared = iou(boxes[:, part], predicted)
        every = alpha * log_scores.gather(1, own) + beta * shared.clamp(min=tiny).log()
        every = every.masked_fill(~(inside & usable[..., None]), -torch.inf)
        best = every.topk(min(cells, len(centres)), dim=-1)
        chosen = torch.zeros_like(inside).scatter(2, best.indices, best.values > -torch.inf)
        most, place = shared.masked_fill(~chosen, -1).max(dim=1)  # (B, N)
        # Strictly larger: of equal ones the first stays, as if there were no chunks.
        better = most > torch.where(fit > -torch.inf, overlap, -1)
        index = torch.where(better, place + first, index)
        overlap = torch.where(better, most, overlap)
        fit = torch.where(better, every.gather(1, place[:, None]).squeeze(1), fit)
        in_crowd |= (inside & crowd[:, part, None]).any(dim=1)
    positive = fit > -torch.inf
    top_fit = overlap.new_full((batch, number), -torch.inf).scatter_reduce(1, index, fit, "amax")
    top_overlap = overlap.new_zeros(batch, number).scatter_reduce(1, index, overlap.where(positive, 0), "amax")
    quality = (fit - top_fit.gather(1, index)).exp() * top_overlap.gather(1, index)
    label = torch.where(positive, 1, torch.where(in_crowd, IGNORE, 0))
    return Aligned(index, label, quality.where(positive, 0))
