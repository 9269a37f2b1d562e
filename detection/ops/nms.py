"""Non-maximum suppression: of boxes that overlap, the best stays.

L independent lists, N boxes.  Boxes: XYXY.

:func:`nms` is an operator of PyTorch's: compilers and exporters see one node, and :mod:`detection.fast` registers
faster kernels for it, which give the same answer to the last bit.
"""

import numpy as np
import torch
from torch import Tensor

from detection.ops.operators import greedy_nms, operator, shape_of


@operator
def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return which boxes survive greedy NMS, each list for itself.

    Going down the list, a box that survives removes every later one whose IoU with it is above the threshold.

    Args:
        boxes: (L, N, 4).
        scores: (L, N), falling; -inf on padding. A box that is not finite, or whose score is not, never survives and
            removes nothing.

    Returns:
        (L, N) bool.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    threshold = as_compared(threshold, boxes.dtype)
    for row, box, score, valid in zip(keep, boxes, scores, can_survive(boxes, scores), strict=True):
        place = valid.nonzero()[:, 0]
        row[place[greedy_nms(box[place], score[place], threshold)]] = True
    return keep


@shape_of(nms)
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def can_survive(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return which boxes take part in NMS, (L, N) bool: those that are finite, with a finite score."""
    return scores.isfinite() & boxes.isfinite().all(dim=-1)


def as_compared(threshold: float, dtype: torch.dtype) -> float:
    """Return the largest number of ``dtype`` that is not above the threshold.

    torchvision compares a float32 IoU with a float64 threshold, PyTorch rounds the threshold first. They part where
    an IoU of 3 / 10, as float32 a little more than 0.3, meets a threshold of 0.3.
    """
    if dtype != torch.float32:
        return threshold
    rounded = np.float32(threshold)
    above = float(rounded) > threshold  # as float64; numpy would compare in float32
    return float(np.nextafter(rounded, np.float32(-np.inf)) if above else rounded)
