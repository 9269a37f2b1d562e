"""Small windows of feature maps, for layers of which only a few outputs are needed."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from detection.fast.levels import GradientSum, Levels, collect_gradient, pick, sum_dtype


def patches(
    levels: Levels, level: Tensor, image: Tensor, row: Tensor, column: Tensor, radius: int
) -> tuple[Tensor, Tensor]:
    """Return windows around cells; gradients flow back into the maps.

    Args:
        levels: the pyramid.
        level, image, row, column: (R,) int64, the centre of each window, which must lie on its map.
        radius: cells on each side of the centre, so k = 2 * radius + 1.

    Returns:
        (R, C, k, k), zero outside the map, in channels-last layout; and (R, k, k) bool, which cells lie on the map.
    """
    height, width = (pick(sides, level)[:, None, None] for sides in zip(*levels.grids, strict=True))
    step = torch.arange(-radius, radius + 1, device=level.device)
    rows, columns = row[:, None, None] + step[:, None], column[:, None, None] + step  # (R, k, 1), (R, 1, k)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    first = pick(levels.starts, level)[:, None, None] + image[:, None, None] * height * width
    index = first + rows.clamp(min=0).minimum(height - 1) * width + columns.clamp(min=0).minimum(width - 1)
    vectors = _Rows.apply(levels.vectors, index.flatten(), levels.gradient)
    windows = vectors.view(*inside.shape, -1) * inside[..., None]
    return windows.permute(0, 3, 1, 2), inside


class _Rows(torch.autograd.Function):
    """Select rows of a table; the backward pass adds their gradient to ``gradient``, if there is one."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, gradient: GradientSum | None) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.gradient = table.shape, gradient
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        (index,) = ctx.saved_tensors

        def add(total: Tensor) -> Tensor:
            return total.index_add_(0, index, grad.to(total.dtype))

        zeros = partial(grad.new_zeros, ctx.shape, dtype=sum_dtype(grad))
        return collect_gradient(ctx.gradient, lambda: add(zeros()), add), None, None
