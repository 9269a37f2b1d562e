"""Anchors: boxes of fixed sizes and aspect ratios at every cell of every feature level.

N anchors, sorted by level; level l has N_l = rows x columns x anchors per cell, in this order.
Boxes: XYXY in canvas pixels.
Ren et al. 2015 (Faster R-CNN), section 3.1.1; one size per level: Lin et al. 2017 (FPN), section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorConfig:
    """Sizes and aspect ratios of the anchors."""

    sizes: Sequence[float] | Sequence[Sequence[float]] = (32, 64, 128, 256, 512)
    """Per level, finest first: the side of the square anchor in canvas pixels, or several sides."""
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    """Height over width; all anchors of one size have the same area."""
    rounded: bool = False
    """Round the corners relative to the cell's origin to whole pixels, as torchvision does."""
    stride_from_canvas: bool = False
    """Use canvas // cells as distance of anchors, as torchvision does: 61 instead of 64 pixels on P6 at side 800."""


class CanvasAnchors(NamedTuple):
    """The anchors of a canvas."""

    boxes: Tensor
    """(N, 4) float32."""
    rows: Tensor
    """(N / A,) int32: the first pixel row of each cell, for all levels; A anchors per cell."""
    columns: Tensor
    """(N / A,) int32: the first pixel column of each cell."""
    lengths: tuple[int, ...]
    """N_l of each level."""
    grids: tuple[tuple[int, int], ...]
    """Rows, columns of each level."""

    def inside(self, sizes: Tensor, divisor: int = 32) -> Tensor:
        """Return which anchors have their cell on the image, not on the padding of the canvas: (B, N) bool.

        The sides of the image are rounded up to multiples of 32. So on its smallest canvas an image has every anchor,
        as in other detectors, and a larger canvas adds none.

        Args:
            sizes: (B, 2) height, width of the images.
        """
        reach = ((sizes + divisor - 1) // divisor * divisor).int()
        cells = (self.rows < reach[:, :1]) & (self.columns < reach[:, 1:])
        return cells[..., None].expand(-1, -1, len(self.boxes) // len(self.rows)).flatten(1)


class Anchors:
    """Generate the anchors of any canvas.

    Args:
        strides: strides of the pyramid's levels, finest first.

    Raises:
        ValueError: the config does not have sizes for every level, or not the same number of sizes for each.
    """

    def __init__(self, strides: Sequence[int], config: AnchorConfig) -> None:
        per_level = [tuple(size) if isinstance(size, Sequence) else (size,) for size in config.sizes]
        if len(per_level) != len(strides):
            raise ValueError(
                f"anchors: the length of sizes is {len(per_level)}, but the number of pyramid levels is {len(strides)} "
                f"(strides {tuple(strides)}); give one size (or list of sizes) per level"
            )
        if len({len(level) for level in per_level}) != 1:
            raise ValueError(f"anchors: sizes is {per_level}; give every level the same number of sizes")
        self.strides = tuple(strides)
        self.per_cell = len(per_level[0]) * len(config.ratios)
        self.stride_from_canvas = config.stride_from_canvas
        self.cells = [_cell_anchors(level, config.ratios, config.rounded) for level in per_level]

    def __call__(
        self, canvas: tuple[int, int], grids: Sequence[tuple[int, int]], device: torch.device
    ) -> CanvasAnchors:
        """Return the anchors of a canvas.

        Args:
            canvas: height, width in pixels.
            grids: rows, columns of each feature level.
        """
        return self.around([cell.to(device) for cell in self.cells], canvas, grids)

    def around(
        self, cells: Sequence[Tensor], canvas: tuple[int, int], grids: Sequence[tuple[int, int]]
    ) -> CanvasAnchors:
        """Return the anchors of a canvas, from the anchors around the origin (A, 4) of each level, on their device."""
        boxes, rows, columns = [], [], []
        for cell, grid, stride in zip(cells, grids, self.strides, strict=True):
            boxes.append(_grid_anchors(cell, grid, self._steps(canvas, grid, stride)))
            row, column = (torch.arange(n, device=cell.device, dtype=torch.int32) * stride for n in grid)
            rows.append(row[:, None].expand(grid).flatten())
            columns.append(column.expand(grid).flatten())
        lengths = tuple(level.shape[0] for level in boxes)  # not len(), which makes sizes of an export constant
        return CanvasAnchors(torch.cat(boxes), torch.cat(rows), torch.cat(columns), lengths, tuple(grids))

    def _steps(self, canvas: tuple[int, int], grid: tuple[int, int], stride: int) -> tuple[int, int]:
        return (canvas[0] // grid[0], canvas[1] // grid[1]) if self.stride_from_canvas else (stride, stride)


def _cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool) -> Tensor:
    """Return the anchors around the origin (A, 4); ratios vary slowest, sizes fastest."""
    root = torch.tensor(ratios, dtype=torch.float32, device="cpu").sqrt()[:, None]
    side = torch.tensor(sizes, dtype=torch.float32, device="cpu")[None, :]
    width, height = (side * (1 / root)).flatten(), (side * root).flatten()
    anchors = torch.stack([-width, -height, width, height], dim=1) / 2
    return anchors.round() if rounded else anchors


def _grid_anchors(cell: Tensor, grid: tuple[int, int], steps: tuple[int, int]) -> Tensor:
    y = torch.arange(grid[0], device=cell.device, dtype=torch.float32) * steps[0]
    x = torch.arange(grid[1], device=cell.device, dtype=torch.float32) * steps[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    origin = torch.stack([x, y, x, y], dim=-1)[:, :, None]  # (rows, columns, 1, 4)
    return (origin + cell).flatten(0, 2)
