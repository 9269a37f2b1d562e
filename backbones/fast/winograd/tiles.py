"""Tiles of feature maps, their transforms, the pieces that are computed at a time, and scratch memory."""

import math
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Options of new tensors, independent of PyTorch's defaults."""

_POINTS = {4: ("0", "5/8", "-5/8", "3/2", "-3/2"), 7: ("1/4", "-1/4", "2/3", "-2/3", "9/8", "-9/8", "2", "-2")}
"""Interpolation points, besides infinity, for each edge of a tile.

Of all points tried, these have the smallest errors in float32: at most 2e-5 of the result's standard deviation for
tiles of 4, and 2e-4 for tiles of 7. Other orders of summation in a plain convolution differ by 1e-5."""
_ROIS = (7, 14)
"""Edges of RoIs."""
_WEIGHT_IN_TILES = 60
"""Cost of transforming a weight: the number of tiles that take the same time."""

PIECE = 36 * 84 * 256
"""Transformed numbers of a piece, for each thread."""
WEIGHT = 36 * 576 * 256
"""Transformed numbers of the part of a weight that is processed at a time."""


class Filter:
    """Tiles of one size, with the matrices that transform input, weight and products."""

    def __init__(self, edge: int) -> None:
        self.edge, self.reach = edge, edge + 2
        """Edge of a tile in the result, and edge r of a tile in the input."""
        self.numbers = self.reach**2
        """Transformed numbers of a tile."""
        self.from_input, self.from_weight, self.to_pixels = _maps([Fraction(point) for point in _POINTS[edge]])
        """Matrices (r, r), (r, 3) and (edge, r), to apply to rows and then to columns."""

    def tiles(self, edge: int) -> int:
        """Return the number of tiles that cover an edge of a map."""
        return -(-edge // self.edge)

    def numbers_of(self, x: Tensor) -> int:
        """Return the number of transformed numbers for all tiles of a map."""
        return self.tiles(x.shape[2]) * self.tiles(x.shape[3]) * self.numbers


def filter_of(x: Tensor, out: int, trainable: bool = False) -> Filter:
    """Return the tile size for maps of this size: 4, with the smallest errors, or 7, with fewer tiles.

    Tiles of 7 are for two cases:

    - RoIs, as few layers follow them, so errors do not add up.
    - Large maps in bfloat16, whose rounding errors are ten times larger, if WEIGHT numbers hold the complete weight.

    The choice does not depend on the batch size, so an image has the same result in every batch.

    Args:
        x: (B, C, H, W).
        out: channels of the result.
        trainable: whether to compute the weight gradient, for which both sizes take the same time.
    """
    small, large = FILTERS[4], FILTERS[7]
    if x.shape[2] in _ROIS and x.shape[3] in _ROIS:
        return large
    if x.dtype != torch.bfloat16 or trainable or out * x.shape[1] * large.numbers > WEIGHT:
        return small
    return min(small, large, key=lambda filter: filter.numbers_of(x) + _WEIGHT_IN_TILES * filter.numbers)


def parts(x: Tensor, out: int, filter: Filter, multiple: int = 1) -> int:
    """Return the channels of the result to compute at a time: parts of similar size, multiples of ``multiple``."""
    at_once = -(-out // -(-out * x.shape[1] * filter.numbers // WEIGHT))
    return -(-at_once // multiple) * multiple


class Piece(NamedTuple):
    """The part of the maps that is computed at a time: complete images, or rows of tiles of one image."""

    first: int
    images: int
    row: int
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.images * self.rows * self.columns


def pieces(x: Tensor, filter: Filter, channels: int, numbers: int) -> Iterator[Piece]:
    """Yield the pieces of maps with ``channels`` channels, each with at most about ``numbers`` transformed numbers."""
    batch, rows, columns = len(x), filter.tiles(x.shape[2]), filter.tiles(x.shape[3])
    most = numbers // (filter.numbers * channels)
    together = most // (rows * columns)
    if together:
        for first in range(0, batch, together):
            yield Piece(first, min(together, batch - first), 0, rows, columns)
        return
    step = max(1, most // columns)
    for image in range(batch):
        for row in range(0, rows, step):
            yield Piece(image, 1, row, min(step, rows - row), columns)


class Scratch(threading.local):
    """Memory that a thread reuses for each convolution, as the system provides new memory slowly, page by page.

    It allocates the usual maximum at once. Memory that grows in steps would fragment the heap.
    """

    memory = torch.empty(0, **PLAIN)

    def take(self, *sizes: int, most: int) -> tuple[Tensor, ...]:
        """Return tensors with these numbers of elements; ``most`` is the usual total at most."""
        if len(self.memory) < sum(sizes):
            with torch.inference_mode(False):
                self.memory = torch.empty(max(most, sum(sizes)), **PLAIN)
        return self.memory[: sum(sizes)].split(sizes)


scratch = Scratch()


def threads() -> int:
    """Return the number of threads that determines the size of pieces."""
    return min(torch.get_num_threads(), 16)


def shaped(memory: Tensor, *shape: int) -> Tensor:
    """Return the first elements of ``memory`` in another shape."""
    return memory[: math.prod(shape)].view(shape)


def _maps(points: Sequence[Fraction]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices that transform pixels (r, r), weights (r, 3) and products (r - 2, r) along an edge.

    The correlation of r pixels with three weights is the transposed Toom-Cook product of two polynomials.
    """
    reach = len(points) + 1
    tile, weight = torch.zeros(reach, reach, **PLAIN), torch.zeros(reach, 3, **PLAIN)
    pixels = torch.zeros(reach - 2, reach, **PLAIN)
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        tile[i, :-1] = torch.tensor(_coefficients(others), **PLAIN)
        weight[i] = torch.tensor([float(point**k / scale) for k in range(3)], **PLAIN)
        pixels[:, i] = torch.tensor([float(point**k) for k in range(reach - 2)], **PLAIN)
    tile[-1] = torch.tensor(_coefficients(points), **PLAIN)  # infinity
    weight[-1, -1] = pixels[-1, -1] = 1
    return tile, weight, pixels


def _coefficients(roots: Sequence[Fraction]) -> list[float]:
    """Return the coefficients of the polynomial with these roots, the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [above - root * here for above, here in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return [float(value) for value in found]


FILTERS = {edge: Filter(edge) for edge in _POINTS}
