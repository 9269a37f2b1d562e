"""Greedy NMS on a GPU without synchronisation.

L lists of N boxes; W words of 32 boxes each. The first kernel compares all pairs and stores one bit per pair. The
second kernel processes each list word by word, with the bits of removed boxes in registers. For 2000 boxes, the bits
take 500 KB, while an implementation in PyTorch would write and read several arrays of 16 MB.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from backbones.fast.kernels import launches

LONGEST = 16384
"""Largest number of boxes in a list; the bits of removed boxes must fit into registers."""

_ROWS, _WORDS = 32, 4
"""A program of the first kernel compares this number of boxes with the boxes in this number of words."""


@launches
def greedy(boxes: Tensor, areas: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Return which boxes survive; see :func:`detection.ops.nms.nms`.

    Args:
        boxes: (L, N, 4) float32.
        areas: (L, N).
        valid: (L, N) bool, the boxes that take part.
        threshold: largest IoU of two surviving boxes, a float32.

    Returns:
        (L, N) bool.
    """
    lists, length = valid.shape
    keep = torch.empty((lists, length), dtype=torch.bool, device=valid.device)
    if not valid.numel():
        return keep
    words = triton.cdiv(length, 32)
    removes = torch.empty((lists, length, words), dtype=torch.int32, device=boxes.device)
    grid = (lists, triton.cdiv(length, _ROWS), triton.cdiv(words, _WORDS))
    # No fused multiply-add: its different rounding could move an IoU to the other side of the threshold.
    _compare[grid](
        boxes.contiguous(), areas.contiguous(), removes, length, words, threshold,
        ROWS=_ROWS, WORDS=_WORDS, enable_fp_fusion=False, num_warps=4,
    )  # fmt: skip
    _walk[(lists,)](
        removes, valid.contiguous().view(torch.int8), keep.view(torch.int8), length, words,
        ALL=triton.next_power_of_2(words), num_warps=4,
    )  # fmt: skip
    return keep


@triton.jit(do_not_specialize=["length", "words"])
def _compare(boxes, areas, removes, length, words, threshold, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """Set bit j % 32 of removes[l, i, j // 32] if box i removes the later box j; skip words before that of box i."""
    row, word = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(2) * WORDS + tl.arange(0, WORDS)
    if (tl.program_id(2) + 1) * WORDS * 32 <= tl.program_id(1) * ROWS:
        return
    first = tl.program_id(0).to(tl.int64) * length
    column = word[:, None] * 32 + tl.arange(0, 32)[None, :]  # (WORDS, 32)
    is_row, is_column = row < length, column < length
    here, there = boxes + (first + row) * 4, boxes + (first + column) * 4
    x1, y1 = tl.load(here, is_row, 0.0), tl.load(here + 1, is_row, 0.0)
    x2, y2 = tl.load(here + 2, is_row, 0.0), tl.load(here + 3, is_row, 0.0)
    other_x1, other_y1 = tl.load(there, is_column, 0.0), tl.load(there + 1, is_column, 0.0)
    other_x2, other_y2 = tl.load(there + 2, is_column, 0.0), tl.load(there + 3, is_column, 0.0)
    area, other_area = tl.load(areas + first + row, is_row, 0.0), tl.load(areas + first + column, is_column, 0.0)
    area = tl.maximum(area, 1.1754943508222875e-38)  # as in detection.ops.boxes.iou
    width = tl.minimum(x2[:, None, None], other_x2[None]) - tl.maximum(x1[:, None, None], other_x1[None])
    height = tl.minimum(y2[:, None, None], other_y2[None]) - tl.maximum(y1[:, None, None], other_y1[None])
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)  # (ROWS, WORDS, 32)
    overlap = tl.div_rn(shared, (area[:, None, None] + other_area[None]) - shared)
    found = (overlap > threshold) & (column[None] > row[:, None, None]) & is_column[None]
    bits = tl.sum(found.to(tl.int32) << tl.arange(0, 32)[None, None, :], axis=2)
    target = removes + (first + row)[:, None] * words + word[None, :]
    tl.store(target, bits, is_row[:, None] & (word < words)[None, :])


@triton.jit
def _or(a, b):
    return a | b


@triton.jit(do_not_specialize=["length", "words"])
def _walk(removes, valid, keep, length, words, ALL: tl.constexpr):
    """Process a list in order: keep each box that is not yet removed, and remove the boxes that it suppresses."""
    first = tl.program_id(0).to(tl.int64) * length
    word, bit = tl.arange(0, ALL), tl.arange(0, 32)
    column = word[:, None] * 32 + bit[None, :]  # (ALL, 32)
    takes_part = tl.load(valid + first + column, column < length, 0).to(tl.int32)
    removed = tl.sum((takes_part == 0).to(tl.int32) << bit[None, :], axis=1)  # (ALL,)
    for now in range(words):
        decided = tl.sum(tl.where(word == now, removed, 0), axis=0)
        row = removes + (first + now * 32) * words
        for i in tl.static_range(32):
            removes_others = tl.load(row + i * words + now, now * 32 + i < length, 0)
            decided = tl.where(((decided >> i) & 1) == 0, decided | removes_others, decided)
        kept = ((decided >> bit) & 1) == 0
        rows = row + bit[:, None] * words + word[None, :]  # (32, ALL)
        later = (word > now) & (word < words)
        wanted = kept[:, None] & later[None, :] & (now * 32 + bit < length)[:, None]
        removed = removed | tl.reduce(tl.load(rows, wanted, 0), 0, _or)
        removed = tl.where(word == now, decided, removed)
    kept = ((removed[:, None] >> bit[None, :]) & 1) == 0
    tl.store(keep + first + column, kept.to(tl.int8), column < length)
