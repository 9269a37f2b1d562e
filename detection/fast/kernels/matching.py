"""Matching on a GPU: compare every candidate with every object, without writing pairs to memory.

B images   G ground truths (padded)   N candidates.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from backbones.fast.kernels import launches

_BLOCK = 512


@launches
def compare(boxes: Tensor, crowd: Tensor, candidates: Tensor, areas: Tensor, keep_best: bool) -> tuple[Tensor, ...]:
    """Return the inputs of :func:`detection.ops.matching.labels`, bit-identical to those of the plain ``match``.

    Args:
        boxes: (B, G, 4) float32.
        crowd: (B, G) bool.
        candidates: (B, N, 4) float32; may be expanded from one image.
        areas: (B, N), areas of the candidates, above zero.
        keep_best: whether to mark the best candidates of every object.

    Returns:
        best, covered: (B, N) float32.
        index: (B, N) int64.
        claimed: (B, N) bool.
    """
    batch, number = areas.shape
    best, covered = torch.empty_like(areas, memory_format=torch.contiguous_format), areas.new_empty(areas.shape)
    index = torch.empty(areas.shape, dtype=torch.int64, device=areas.device)
    claimed = torch.zeros(areas.shape, dtype=torch.bool, device=areas.device)
    top = boxes.new_zeros(boxes.shape[:2])
    shared = candidates.stride(0) == 0
    rows = candidates[0] if shared else candidates
    rows, areas = rows.contiguous(), (areas[0] if shared else areas).contiguous()
    of_objects = boxes.contiguous(), crowd.contiguous().view(torch.int8)
    grid = (batch, triton.cdiv(number, _BLOCK))
    # No fused multiply-add, so that each product and sum is rounded as in PyTorch.
    options = {"BLOCK": _BLOCK, "SHARED": shared, "enable_fp_fusion": False, "num_warps": 4}
    sizes = boxes.shape[1], number
    _best[grid](*of_objects, rows, areas, best, covered, index, top, *sizes, KEEP_BEST=keep_best, **options)
    if keep_best:
        _claim[grid](*of_objects, rows, areas, top, claimed.view(torch.int8), *sizes, **options)
    return best, covered, index, claimed


@triton.jit
def _quality(x1, y1, x2, y2, own_area, box, is_crowd):
    """Return the IoU of candidates and an object; for a crowd, the negative fraction that lies in it."""
    left, top, right, bottom = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    width = tl.maximum(tl.minimum(right, x2) - tl.maximum(left, x1), 0.0)
    height = tl.maximum(tl.minimum(bottom, y2) - tl.maximum(top, y1), 0.0)
    shared = width * height
    area = tl.maximum(right - left, 0.0) * tl.maximum(bottom - top, 0.0)
    return tl.div_rn(shared, tl.where(is_crowd, -own_area, (area + own_area) - shared))


@triton.jit
def _candidates(rows, areas, image, place, number, SHARED: tl.constexpr):
    first = 0 if SHARED else image.to(tl.int64) * number
    row, real = rows + (first + place) * 4, place < number
    own_area = tl.load(areas + first + place, real, 1.0)
    x1, y1 = tl.load(row, real, 0.0), tl.load(row + 1, real, 0.0)
    return x1, y1, tl.load(row + 2, real, 0.0), tl.load(row + 3, real, 0.0), own_area


@triton.jit(do_not_specialize=["objects", "number"])
def _best(
    boxes, crowd, rows, areas, best, covered, index, top, objects, number,
    KEEP_BEST: tl.constexpr, BLOCK: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    image, place = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x1, y1, x2, y2, own_area = _candidates(rows, areas, image, place, number, SHARED)
    most, lies_in, found = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.int32)
    for g in range(objects):
        at = image * objects + g
        quality = _quality(x1, y1, x2, y2, own_area, boxes + at * 4, tl.load(crowd + at) != 0)
        found = tl.where(quality > most, g, found)  # strictly better only: of equal objects, the first stays
        most = tl.maximum(most, quality)
        lies_in = tl.maximum(lies_in, -quality)
        if KEEP_BEST:
            highest = tl.max(quality, axis=0)
            tl.atomic_max(top + at, highest, highest > 0)
    target, real = image.to(tl.int64) * number + place, place < number
    tl.store(best + target, most, real)
    tl.store(covered + target, lies_in, real)
    tl.store(index + target, found.to(tl.int64), real)


@triton.jit(do_not_specialize=["objects", "number"])
def _claim(boxes, crowd, rows, areas, top, claimed, objects, number, BLOCK: tl.constexpr, SHARED: tl.constexpr):
    image, place = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x1, y1, x2, y2, own_area = _candidates(rows, areas, image, place, number, SHARED)
    claims = tl.zeros([BLOCK], tl.int32)
    for g in range(objects):
        at = image * objects + g
        highest = tl.load(top + at)
        highest = tl.where(highest > 0, highest, float("inf"))  # without overlap it would claim every candidate
        quality = _quality(x1, y1, x2, y2, own_area, boxes + at * 4, tl.load(crowd + at) != 0)
        claims = tl.where(quality == highest, 1, claims)
    tl.store(claimed + image.to(tl.int64) * number + place, claims.to(tl.int8), place < number)
