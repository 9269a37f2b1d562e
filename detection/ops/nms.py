"""Non-maximum suppression: keep only the best of several overlapping boxes.

L independent lists, N boxes.  Boxes: XYXY.

:func:`nms` is a custom PyTorch operator, so compilers and exporters see a single node. :mod:`detection.fast` registers
faster kernels for it, with bit-identical results.
"""

import numpy as np
import torch
from torch import Tensor

from detection.ops.operators import greedy_nms, operator, shape_of


@operator
def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return which boxes survive greedy NMS, for each list separately.

    In order of falling scores, each surviving box removes every later box whose IoU with it is above the threshold.

    Args:
        boxes: (L, N, 4).
        scores: (L, N), in falling order; -inf on padding. A box with NaN or Inf in its coordinates or score does not
            survive and removes no other box.
        threshold: IoU above which a box is removed.

    Returns:
        (L, N) bool.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    threshold = rounded_threshold(threshold, boxes.dtype)
    for row, box, score, valid in zip(keep, boxes, scores, can_survive(boxes, scores), strict=True):
        place = valid.nonzero()[:, 0]
        row[place[greedy_nms(box[place], score[place], threshold)]] = True
    return keep


@shape_of(nms)
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def can_survive(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return which boxes take part in NMS, (L, N) bool: those with finite coordinates and a finite score."""
    return scores.isfinite() & boxes.isfinite().all(dim=-1)


def rounded_threshold(threshold: float, dtype: torch.dtype) -> float:
    """Return the largest number of ``dtype`` that is at most the threshold.

    torchvision compares a float32 IoU with a float64 threshold, while PyTorch rounds the threshold to float32 first.
    The results differ, for example, at an IoU of 3 / 10 (in float32 slightly above 0.3) and a threshold of 0.3.
    """
    if dtype != torch.float32:
        return threshold
    rounded = np.float32(threshold)
    above = float(rounded) > threshold  # as float64; numpy would compare in float32
    return float(np.nextafter(rounded, np.float32(-np.inf)) if above else rounded)
