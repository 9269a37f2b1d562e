"""Paste predicted masks into full images on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from backbones.fast.kernels import launches

_ROWS, _COLUMNS = 16, 128


@launches
def paste(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Paste masks; see :func:`detection.fast.pasting.paste_masks`.

    Args:
        masks: (n, m, m) float32.
        boxes: (n, 4).

    Returns:
        (n, height, width) bool.
    """
    frames = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=masks.device)
    if frames.numel():
        grid = (len(boxes), triton.cdiv(height, _ROWS), triton.cdiv(width, _COLUMNS))
        _paste[grid](
            masks.contiguous(), boxes.double().contiguous(), frames.view(torch.int8), height, width, threshold,
            SIDE=masks.shape[-1], ROWS=_ROWS, COLUMNS=_COLUMNS, enable_fp_fusion=False, num_warps=4,
        )  # fmt: skip
    return frames


@triton.jit
def _along(first, last, pixel, SIDE: tl.constexpr):
    """Return the mask cell before the centre of a pixel along an axis, and the weight of the next cell."""
    cell = (last - first) / SIDE
    place = (pixel.to(tl.float64) + 0.5 - first) / cell - 0.5
    place = tl.minimum(tl.maximum(place, -1.0), SIDE * 1.0)
    low = tl.minimum(tl.floor(place), SIDE - 1.0)
    return low.to(tl.int32), place - low


@triton.jit(do_not_specialize=["height", "width"])
def _paste(
    masks, boxes, frames, height, width, threshold, SIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    object = tl.program_id(0).to(tl.int64)
    box = boxes + object * 4
    left, top, right, bottom = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    extent_x, extent_y = right - left, bottom - top
    large = 1.7976931348623157e308
    if not ((extent_x > 0) & (extent_y > 0) & (extent_x <= large) & (extent_y <= large)):
        return
    row, column = tl.program_id(1) * ROWS, tl.program_id(2) * COLUMNS
    # A mask can extend half a cell beyond its box, where its values fall to zero.
    beyond_x, beyond_y = extent_x / SIDE, extent_y / SIDE
    if (column > right + beyond_x) | (column + COLUMNS < left - beyond_x):
        return
    if (row > bottom + beyond_y) | (row + ROWS < top - beyond_y):
        return
    y, x = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    up, down_weight = _along(top, bottom, y, SIDE)
    west, east_weight = _along(left, right, x, SIDE)
    mask = masks + object * SIDE * SIDE
    above = _row(mask, up, west, east_weight, SIDE)
    below = _row(mask, up + 1, west, east_weight, SIDE)
    value = above + (below - above) * down_weight[:, None]
    real = (y < height)[:, None] & (x < width)[None, :]
    tl.store(frames + (object * height + y[:, None]) * width + x[None, :], (value >= threshold).to(tl.int8), real)


@triton.jit
def _row(mask, row, west, east_weight, SIDE: tl.constexpr):
    """Interpolate between two columns of cells, in a given row of cells; zero outside the mask."""
    inside = ((row >= 0) & (row < SIDE))[:, None]
    place = mask + row[:, None] * SIDE + west[None, :]
    first = tl.load(place, inside & ((west >= 0) & (west < SIDE))[None, :], 0.0)
    second = tl.load(place + 1, inside & ((west + 1 >= 0) & (west + 1 < SIDE))[None, :], 0.0)
    first, second = tl.where(first == first, first, 0.0), tl.where(second == second, second, 0.0)
    weight = east_weight.to(tl.float32)[None, :]
    return (first * (1.0 - weight) + second * weight).to(tl.float64)
