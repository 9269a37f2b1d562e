"""Faster kernels of :func:`detection.ops.nms.nms`, the same to the last bit.

L independent lists, N boxes.

A GPU decides which boxes survive without the host (:mod:`detection.fast.kernels.nms`), or in rounds over all lists.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor

from backbones.fast import kernels
from backbones.fast.autocast import to_autocast
from detection.ops.boxes import area, iou
from detection.ops.nms import as_compared, can_survive
from detection.ops.operators import greedy_nms

LONG = 256
"""Boxes from which a list is worth a thread of its own."""

PAIRS = 2**25
"""Pairs of boxes whose IoU is held at a time on a device: about 0.7 GB."""

ROUNDS = 8
"""Rounds of a device between two looks of the host at whether anything still changes; most lists need no more."""


def nms_on_gpu(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Run NMS in one kernel where there is one for such lists, else in rounds."""
    valid, threshold = can_survive(boxes, scores), as_compared(threshold, boxes.dtype)
    if boxes.dtype == torch.float32 and kernels.usable(boxes):
        from detection.fast.kernels import nms as kernel

        if boxes.shape[1] <= kernel.LONGEST:
            return kernel.greedy(boxes, area(boxes), valid, threshold)
    return _nms_by_rounds(boxes, valid, threshold)


def nms_by_threads(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Run torchvision's loop on the CPU for as many lists at a time as PyTorch has threads."""
    valid, threshold = can_survive(boxes, scores), as_compared(threshold, boxes.dtype)
    lengths = valid.sum(dim=1).tolist()
    lists = list(zip(boxes[valid].split(lengths), scores[valid].split(lengths), strict=True))
    threads = min(torch.get_num_threads(), sum(length >= LONG for length in lengths))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:  # the loop lets go of the interpreter
            survivors = list(pool.map(lambda one: greedy_nms(*one, threshold), lists))
    else:
        survivors = [greedy_nms(*one, threshold) for one in lists]
    keep = torch.zeros_like(valid)
    if survivors:
        starts = accumulate(lengths[:-1], initial=0)
        found = torch.cat([kept + start for kept, start in zip(survivors, starts, strict=True)])
        keep.view(-1)[valid.view(-1).nonzero().squeeze(1)[found]] = True
    return keep


def _greedy(overlaps: Tensor, valid: Tensor, rounds: int) -> Tensor:
    """Greedy NMS by repetition: keep what nothing that is kept suppresses, until that changes nothing.

    Only one state repeats itself, the greedy one: the first box depends on no other, the second on the first, and so
    on. A list takes as many rounds as its longest chain of boxes that decide about each other, usually three to eight.

    Args:
        overlaps: (L, N, N) bool.
        valid: (L, N) bool, the boxes that take part; no other may suppress.
        rounds: how many to run before the host looks whether anything changed.
    """
    # A matrix product is the fastest "any" there is. Autocast would cast the matrix in each round.
    suppresses = to_autocast(overlaps.triu(1).float())
    keep = valid
    while True:
        for _ in range(rounds):
            before = keep
            keep = valid & (before[:, None].to(suppresses.dtype) @ suppresses == 0).squeeze(1)
        if torch.equal(before, keep):
            return keep


def _nms_by_rounds(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """All lists in parallel: for a device without kernels, where one after the other would leave it idle."""
    keep = torch.zeros_like(valid)
    step = max(1, PAIRS // max(1, boxes.shape[1] ** 2))
    for start in range(0, len(boxes), step):
        part = boxes[start : start + step]
        # A box that is not finite may give a NaN, which is above no threshold.
        keep[start : start + step] = _greedy(iou(part, part) > threshold, valid[start : start + step], ROUNDS)
    return keep
