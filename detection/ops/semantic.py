"""Semantic maps at image size from logits at a fraction of it, without K maps of that size in memory.

B images   K classes   h x w cells   f pixels per cell and axis: the canvas has f * h x f * w pixels.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detection.structures import UNLABELLED

ROWS = 8
"""Rows of cells that the loss enlarges at a time."""
CLASSES = 8
"""Classes that :func:`label_map` enlarges at a time."""


def upsampled_cross_entropy(logits: Tensor, labels: Tensor, rows: int = ROWS) -> Tensor:
    """Return the mean cross entropy of labelled pixels, for logits that are enlarged to the size of the labels.

    The value is that of enlarging all logits bilinearly and comparing them with all labels (detectron2). This function
    enlarges a few rows at a time, and again in the backward pass, so the memory does not depend on K x H x W.

    Args:
        logits: (B, K, h, w).
        labels: (B, f * h, f * w) uint8 in 0..K-1, or UNLABELLED.
        rows: rows of cells to enlarge at a time.

    Returns:
        A scalar, float32; zero if no pixel has a label.
    """
    height, factor = logits.shape[2], labels.shape[1] // logits.shape[2]
    total = logits.new_zeros((), dtype=torch.float32)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        part = partial(_summed_cross_entropy, start=start, stop=stop, factor=factor)
        strip = labels[:, factor * start : factor * stop]
        total = total + checkpoint(part, logits, strip, use_reentrant=False, preserve_rng_state=False)
    return total / (labels != UNLABELLED).sum().clamp(min=1)


def _summed_cross_entropy(logits: Tensor, labels: Tensor, start: int, stop: int, factor: int) -> Tensor:
    """Return the sum of the cross entropy over the labelled pixels of some rows of cells."""
    first, last = max(start - 1, 0), min(stop + 1, logits.shape[2])  # pixels at the edge also read the next row
    enlarged = F.interpolate(logits[:, :, first:last].float(), scale_factor=factor, mode="bilinear")
    enlarged = enlarged[:, :, factor * (start - first) : factor * (stop - first)]
    return F.cross_entropy(enlarged, labels.long(), ignore_index=UNLABELLED, reduction="sum")


def label_map(logits: Tensor, factor: int, size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
    """Return the best class of each pixel of an image, at the size of its file.

    Enlarge the logits to the canvas, cut the image out, resize it to its file's size, and take the best class, as
    detectron2 does. This function enlarges a few classes at a time.

    Args:
        logits: (K, h, w) of one image.
        factor: f.
        size: height, width of the image on the canvas.
        original_size: height, width of the file.

    Returns:
        (height, width) uint8; of equal logits, the first class wins.
    """
    best = torch.full(original_size, -torch.inf, device=logits.device)
    label = torch.zeros(original_size, dtype=torch.uint8, device=logits.device)
    for start in range(0, len(logits), CLASSES):
        some = F.interpolate(logits[None, start : start + CLASSES].float(), scale_factor=factor, mode="bilinear")
        some = F.interpolate(some[:, :, : size[0], : size[1]], size=original_size, mode="bilinear")
        highest, index = some[0].max(dim=0)
        better = highest > best
        label = torch.where(better, (index + start).to(torch.uint8), label)
        best = torch.where(better, highest, best)
    return label
