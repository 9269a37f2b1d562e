"""Tiles of maps, what maps them to numbers and back, the pieces that are computed at a time, and memory for these."""

import math
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Whatever the defaults are."""

_POINTS = {4: ("0", "5/8", "-5/8", "3/2", "-3/2"), 7: ("1/4", "-1/4", "2/3", "-2/3", "9/8", "-9/8", "2", "-2")}
"""Where polynomials are taken, besides infinity, for each edge of a tile. Of all that were tried, these lose least in
float32: 2e-5 of the result's standard deviation at worst, where other orders of summation lose 1e-5, and 2e-4."""
_ROIS = (7, 14)
"""Edges of RoIs."""
_WEIGHT_IN_TILES = 60
"""Tiles that are mapped and multiplied while a weight is mapped."""

PIECE = 36 * 84 * 256
"""Numbers that the tiles of a piece are mapped to, for each thread."""
WEIGHT = 36 * 576 * 256
"""Numbers that weights are mapped to at a time."""


class Filter:
    """Tiles of one size, and what maps them, weights and products: :attr:`edge`, :attr:`reach` r."""

    def __init__(self, edge: int) -> None:
        self.edge, self.reach = edge, edge + 2
        """Of a tile of the result, and of what it is made of."""
        self.numbers = self.reach**2
        """That a tile is mapped to."""
        self.from_input, self.from_weight, self.to_pixels = _maps([Fraction(point) for point in _POINTS[edge]])
        """(r, r), (r, 3) and (edge, r), for rows and then for columns."""

    def tiles(self, edge: int) -> int:
        """That cover an edge of a map."""
        return -(-edge // self.edge)

    def numbers_of(self, x: Tensor) -> int:
        """That all tiles of a map are mapped to."""
        return self.tiles(x.shape[2]) * self.tiles(x.shape[3]) * self.numbers


def filter_of(x: Tensor, out: int, learns: bool = False) -> Filter:
    """The one for maps of this size: tiles of 4, which lose least, or of 7, of which there are fewer.

    The latter for RoIs, after which no errors of many layers add up, and for large maps in bfloat16, which rounds more
    than ten times as much, if the weight is then still mapped at once. How many images there are has no say: each has
    the same result alone.

    Args:
        out: channels of the result.
        learns: it is for the gradient of the weight, for which both take as long.
    """
    small, large = FILTERS[4], FILTERS[7]
    if x.shape[2] in _ROIS and x.shape[3] in _ROIS:
        return large
    if x.dtype != torch.bfloat16 or learns or out * x.shape[1] * large.numbers > WEIGHT:
        return small
    return min(small, large, key=lambda filter: filter.numbers_of(x) + _WEIGHT_IN_TILES * filter.numbers)


def parts(x: Tensor, out: int, filter: Filter, multiple: int = 1) -> int:
    """Channels of the result that are computed at a time, about as many each time, a multiple of something."""
    at_once = -(-out // -(-out * x.shape[1] * filter.numbers // WEIGHT))
    return -(-at_once // multiple) * multiple


class Piece(NamedTuple):
    """Whole images, or rows of tiles of one."""

    first: int
    images: int
    row: int
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        """How many."""
        return self.images * self.rows * self.columns


def pieces(x: Tensor, filter: Filter, channels: int, numbers: int) -> Iterator[Piece]:
    """All pieces of maps, each mapped to about so many numbers at most if there are so many channels."""
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
    """Memory of a thread, for one convolution after the other: new memory comes from the system page by page.

    All that is ever wanted is asked for at once: what is grown and freed again leaves holes between other tensors.
    """

    memory = torch.empty(0, **PLAIN)

    def take(self, *sizes: int, most: int) -> tuple[Tensor, ...]:
        """So many numbers each, of at most so many usually."""
        if len(self.memory) < sum(sizes):
            with torch.inference_mode(False):
                self.memory = torch.empty(max(most, sum(sizes)), **PLAIN)
        return self.memory[: sum(sizes)].split(sizes)


scratch = Scratch()


def threads() -> int:
    """For which pieces are made."""
    return min(torch.get_num_threads(), 16)


def shaped(memory: Tensor, *shape: int) -> Tensor:
    """The beginning of it, as another shape."""
    return memory[: math.prod(shape)].view(shape)


def _maps(points: Sequence[Fraction]) -> tuple[Tensor, Tensor, Tensor]:
    """What maps pixels to numbers (r, r), weights to numbers (r, 3) and products to pixels (r - 2, r), along an edge.

    r pixels correlated with three weights are the product of two polynomials by Toom and Cook, transposed.
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
    """Of the polynomial with these roots, the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [above - root * here for above, here in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return [float(value) for value in found]


FILTERS = {edge: Filter(edge) for edge in _POINTS}
