"""Anchors: boxes of fixed sizes and shapes at every cell of every feature level.

N_l anchors of level l = rows x columns x anchors per cell, in this order; boxes XYXY in canvas pixels.
Ren et al. 2015 (Faster R-CNN), section 3.1.1; one size per level: Lin et al. 2017 (FPN), section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorConfig:
    """Sizes and shapes of the anchors."""

    sizes: Sequence[float] | Sequence[Sequence[float]] = (32, 64, 128, 256, 512)
    """Per level, finest first: the side of the square anchor in canvas pixels, or several sides."""
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    """Height over width; the area stays that of the square."""
    rounded: bool = False
    """Round the corners around the cell's origin to whole pixels, as torchvision does."""
    stride_from_canvas: bool = False
    """Space the anchors by canvas // cells, as torchvision does: 61 pixels instead of 64 on P6 of an 800-pixel side."""


class Anchors:
    """Anchors of a canvas, computed once per canvas size and device."""

    def __init__(
        self,
        strides: Sequence[int],
        sizes: Sequence[float] | Sequence[Sequence[float]] = (32, 64, 128, 256, 512),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        rounded: bool = False,
        stride_from_canvas: bool = False,
    ) -> None:
        per_level = [tuple(size) if isinstance(size, Sequence) else (size,) for size in sizes]
        if len(per_level) != len(strides):
            raise ValueError(
                f"anchors: {len(per_level)} sizes for {len(strides)} feature levels of strides {tuple(strides)}; "
                "give one size (or list of sizes) per level"
            )
        if len({len(level) for level in per_level}) != 1:
            raise ValueError(f"anchors: every level needs the same number of sizes, got {per_level}")
        self.strides = tuple(strides)
        self.per_cell = len(per_level[0]) * len(ratios)
        self.stride_from_canvas = stride_from_canvas
        self._cells = [_cell_anchors(level, ratios, rounded) for level in per_level]
        self._cache: dict[tuple[object, ...], list[Tensor]] = {}

    def __call__(self, canvas: tuple[int, int], grids: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Anchors per level.

        Args:
            canvas: height, width in pixels.
            grids: rows, columns of each feature level.

        Returns:
            One (N_l, 4) float32 tensor per level.
        """
        key = (canvas, tuple(grids), device)
        if key not in self._cache:
            self._cache[key] = [
                _grid_anchors(cell.to(device), grid, self._steps(canvas, grid, stride))
                for cell, grid, stride in zip(self._cells, grids, self.strides, strict=True)
            ]
        return self._cache[key]

    def _steps(self, canvas: tuple[int, int], grid: tuple[int, int], stride: int) -> tuple[int, int]:
        return (canvas[0] // grid[0], canvas[1] // grid[1]) if self.stride_from_canvas else (stride, stride)


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> Tensor:
    """Anchors around the origin (A, 4); ratios vary slowest, sizes fastest."""
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    side = torch.tensor(sizes, dtype=torch.float32)[None, :]
    width, height = (side * (1 / root)).flatten(), (side * root).flatten()
    anchors = torch.stack([-width, -height, width, height], dim=1) / 2
    return anchors.round() if rounded else anchors


def _grid_anchors(cell: Tensor, grid: tuple[int, int], steps: tuple[int, int]) -> Tensor:
    y = torch.arange(grid[0], device=cell.device, dtype=torch.float32) * steps[0]
    x = torch.arange(grid[1], device=cell.device, dtype=torch.float32) * steps[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    origin = torch.stack([x, y, x, y], dim=-1)[:, :, None]  # (rows, columns, 1, 4)
    return (origin + cell).flatten(0, 2)
