"""Non-maximum suppression: of boxes that overlap, the best stays.

L independent lists, B images, N boxes, K classes.  Boxes: XYXY.

All of it is greedy NMS to the last bit, as ``torchvision.ops.nms`` computes it on CPU; only the order of the work
differs. Which boxes survive is decided without the host where a GPU takes kernels (:mod:`detection.ops.kernels.nms`).
How many is data, which the detections of a batch depend on, so this is the one module of the model in which the host
may wait for the device.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from backbones import kernels
from backbones.autocast import to_autocast
from detection.ops.boxes import area, iou
from detection.structures import IGNORE

LONG = 256
"""Boxes from which a list is worth a thread of its own."""

PAIRS = 2**25
"""Pairs of boxes whose IoU is held at a time on a device: about 0.7 GB."""

ROUNDS = 8
"""Rounds of a device between two looks of the host at whether anything still changes; most lists need no more."""


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Which boxes survive greedy NMS, each list for itself.

    Going down the list, a box that survives removes every later one whose IoU with it is above the threshold.

    Args:
        boxes: (L, N, 4).
        scores: (L, N), falling; -inf on padding. A box that is not finite, or whose score is not, never survives and
            removes nothing.

    Returns:
        (L, N) bool.
    """
    valid = scores.isfinite() & boxes.isfinite().all(dim=-1)
    threshold = _as_compared(threshold, boxes.dtype)
    if boxes.device.type == "cpu":
        return _nms_on_cpu(boxes, scores, valid, threshold)
    if boxes.dtype == torch.float32 and kernels.usable(boxes):
        from detection.ops.kernels import nms as kernel

        if boxes.shape[1] <= kernel.LONGEST:
            return kernel.greedy(boxes, area(boxes), valid, threshold)
    return _nms_by_rounds(boxes, valid, threshold)


def soft_nms(boxes: Tensor, scores: Tensor, sigma: float, rounds: int) -> Tensor:
    """Scores after soft suppression (Bodla et al. 2017, section 3, the Gaussian): who overlaps a better box loses.

    Going down each list, the best box that is left keeps its score, and the score of every other one is multiplied by
    exp(-IoU^2 / sigma).

    Args:
        boxes: (L, N, 4).
        scores: (L, N); -inf on padding.
        sigma: how soft: the larger, the less is lost.
        rounds: take at most so many boxes of each list.

    Returns:
        (L, N) scores; -inf for those that were not taken, were padding, or are not finite.
    """
    valid = scores.isfinite() & boxes.isfinite().all(dim=-1)
    left = scores.masked_fill(~valid, -torch.inf)
    boxes = boxes.masked_fill(~valid[..., None], 0)
    final = torch.full_like(left, -torch.inf)
    for _ in range(min(rounds, left.shape[1])):
        best, place = left.max(dim=1, keepdim=True)  # (L, 1)
        final = final.scatter(1, place, torch.where(best > -torch.inf, best, final.gather(1, place)))
        overlap = iou(boxes.gather(1, place[..., None].expand(-1, -1, 4)), boxes).squeeze(1)  # (L, N)
        left = (left * torch.exp(-overlap.square() / sigma)).scatter(1, place, -torch.inf)
    return final


def select_detections(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, num: int, soft_sigma: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best ``num`` boxes of each image after NMS within each class.

    Args:
        boxes: (B, N, K, 4), or (B, N, 1, 4) where all classes share a box.
        scores: (B, N, K). Every one above ``score_threshold`` takes part; none that is not finite or whose box is not.
        soft_sigma: above 0, :func:`soft_nms` instead of NMS; what falls below ``score_threshold`` is dropped.

    Returns:
        boxes: (B, num, 4) by falling score (of equal ones the first); zero on padding.
        scores: (B, num); zero on padding.
        labels: (B, num) int64; IGNORE on padding.
        index: (B, num) int64 into N; zero on padding.
    """
    batch, _, classes = scores.shape
    image, index, label = (scores > score_threshold).nonzero(as_tuple=True)
    score = scores[image, index, label]
    box = boxes[image, index, label if boxes.shape[2] > 1 else 0]  # (candidates, 4)
    order = score.argsort(descending=True, stable=True)
    order = order[(image * classes + label)[order].argsort(stable=True)]  # by image, class, falling score
    image, index, label, score, box = (x[order] for x in (image, index, label, score, box))

    _, lengths = (image * classes + label).unique_consecutive(return_counts=True)
    row, column = _places(lengths, len(image))
    shape = (len(lengths), int(F.pad(lengths, (0, 1)).amax()))
    lists = box.new_zeros((*shape, 4)).index_put((row, column), box)
    list_scores = score.new_full(shape, -torch.inf).index_put((row, column), score)
    if soft_sigma > 0:
        score = soft_nms(lists, list_scores, soft_sigma, num)[row, column]
        keep = score > score_threshold
    else:
        keep = nms(lists, list_scores, iou_threshold)[row, column]
    kept = keep.nonzero()[:, 0]  # once for all, as the host waits for each
    image, index, label, score, box = (x[kept] for x in (image, index, label, score, box))

    # Back to the order of the candidates first: it decides between equal scores.
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


def _places(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Row and column of each entry, when ``total`` entries fill rows of the given lengths one after the other."""
    starts = lengths.cumsum(0) - lengths
    row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)
    return row, torch.arange(total, device=lengths.device) - starts[row]


def _as_compared(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above the threshold.

    torchvision compares a float32 IoU with a float64 threshold, PyTorch rounds the threshold first. They part where
    an IoU of 3 / 10, as float32 a little more than 0.3, meets a threshold of 0.3.
    """
    if dtype != torch.float32:
        return threshold
    rounded = np.float32(threshold)
    above = float(rounded) > threshold  # as float64; numpy would compare in float32
    return float(np.nextafter(rounded, np.float32(-np.inf)) if above else rounded)


def _nms_on_cpu(boxes: Tensor, scores: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """One list after the other by torchvision's loop, as many at a time as PyTorch has threads."""
    lengths = valid.sum(dim=1).tolist()
    lists = list(zip(boxes[valid].split(lengths), scores[valid].split(lengths), strict=True))
    threads = min(torch.get_num_threads(), sum(length >= LONG for length in lengths))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:  # the loop lets go of the interpreter
            survivors = list(pool.map(lambda one: torchvision.ops.nms(*one, threshold), lists))
    else:
        survivors = [torchvision.ops.nms(*one, threshold) for one in lists]
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
