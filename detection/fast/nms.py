"""Faster implementations of :func:`detection.ops.nms.nms`, with bit-identical results.

L independent lists, N boxes.

A GPU uses a kernel that does not synchronise (:mod:`detection.fast.kernels.nms`), or rounds over all lists.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor

from backbones.fast import kernels
from backbones.fast.autocast import to_autocast
from detection.ops.boxes import area, iou
from detection.ops.nms import can_survive, rounded_threshold
from detection.ops.operators import greedy_nms

LONG = 256
"""Smallest number of boxes for which a list gets its own thread."""

PAIRS = 2**25
"""Largest number of IoUs in memory at a time; they take about 0.7 GB."""

ROUNDS = 8
"""Rounds between two tests for convergence, each of which synchronises; enough for most lists."""


def nms_on_gpu(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Run NMS in one kernel if it supports such lists, otherwise in rounds."""
    valid, threshold = can_survive(boxes, scores), rounded_threshold(threshold, boxes.dtype)
    if boxes.dtype == torch.float32 and kernels.usable(boxes):
        from detection.fast.kernels import nms as kernel

        if boxes.shape[1] <= kernel.LONGEST:
            return kernel.greedy(boxes, area(boxes), valid, threshold)
    return _nms_by_rounds(boxes, valid, threshold)


def nms_by_threads(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Run torchvision's NMS on the CPU, for several lists in parallel with PyTorch's number of threads."""
    valid, threshold = can_survive(boxes, scores), rounded_threshold(threshold, boxes.dtype)
    lengths = valid.sum(dim=1).tolist()
    lists = list(zip(boxes[valid].split(lengths), scores[valid].split(lengths), strict=True))
    threads = min(torch.get_num_threads(), sum(length >= LONG for length in lengths))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:  # torchvision's loop releases Python's lock
            survivors = list(pool.map(lambda one: greedy_nms(one[0], one[1], threshold), lists))
    else:
        survivors = [greedy_nms(*one, threshold) for one in lists]
    keep = torch.zeros_like(valid)
    if survivors:
        starts = accumulate(lengths[:-1], initial=0)
        found = torch.cat([kept + start for kept, start in zip(survivors, starts, strict=True)])
        keep.view(-1)[valid.view(-1).nonzero().squeeze(1)[found]] = True
    return keep


def _greedy(overlaps: Tensor, valid: Tensor, rounds: int) -> Tensor:
    """Run greedy NMS by iteration: keep each box that no kept box suppresses, until nothing changes.

    The only fixed point is the greedy result: the first box depends on no other box, the second only on the first, and
    so on. The number of rounds is the length of the longest chain of suppressions, usually three to eight.

    Args:
        overlaps: (L, N, N) bool, whether the IoU is above the threshold.
        valid: (L, N) bool, the boxes that take part; other boxes must not suppress.
        rounds: rounds before each test for convergence, which synchronises with the device.
    """
    # A matrix product is the fastest form of "any". The cast is here, as autocast would repeat it in each round.
    suppresses = to_autocast(overlaps.triu(1).float())
    keep = valid
    while True:
        for _ in range(rounds):
            before = keep
            keep = valid & (before[:, None].to(suppresses.dtype) @ suppresses == 0).squeeze(1)
        if torch.equal(before, keep):
            return keep


def _nms_by_rounds(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Run NMS on all lists in parallel, for a device without kernels; single lists would not keep it busy."""
    keep = torch.zeros_like(valid)
    step = max(1, PAIRS // max(1, boxes.shape[1] ** 2))
    for start in range(0, len(boxes), step):
        part = boxes[start : start + step]
        # A box with NaN or Inf can give a NaN, which is not above the threshold.
        keep[start : start + step] = _greedy(iou(part, part) > threshold, valid[start : start + step], ROUNDS)
    return keep
