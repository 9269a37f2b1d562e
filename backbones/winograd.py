"""3x3 convolutions by minimal filtering: a quarter or a fifth of the multiplications, in float32 on a processor.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308). F(4x4, 3x3): a tile of 6x6
pixels and the 3x3 weights are mapped to 36 numbers each, the products of which, summed over the channels, are mapped to
the 4x4 pixels of the result in the middle of the tile. Over all tiles these are 36 matrix products. The maps are matrix
products as well, so that the processor's own library does all the work, in pieces that stay in its caches.

RoIs of 14x14 cells are covered by F(7x7, 3x3) exactly, where tiles of 4x4 would compute 16x16.
"""

import math
import os
import platform
import re
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.timing import best_seconds

_POINTS = {4: ("0", "5/8", "-5/8", "3/2", "-3/2"), 7: ("1/4", "-1/4", "2/3", "-2/3", "9/8", "-9/8", "2", "-2")}
"""Where polynomials are taken, besides infinity, for each edge of a tile. Of all that were tried, these lose least in
float32: 2e-5 of the result's standard deviation at worst, where other orders of summation lose 1e-5, and 2e-4."""
_ROIS = (7, 14)
"""Edges of maps for which tiles of 7 are taken: RoIs, after which no errors of many layers add up."""

_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Whatever the defaults are."""
_HOW = ((1, 1), (1, 1), (1, 1), 1)
"""Stride, padding, dilation and groups."""
_LEAST_CHANNELS, _LEAST_NUMBERS = 128, 36 * 48
"""With fewer channels, or numbers that all tiles are mapped to, the maps take longer than what they save."""
_PIECE = 36 * 84 * 256
"""Numbers that the tiles of a piece are mapped to, for each thread."""
_WEIGHT = 36 * 576 * 256
"""Numbers that weights are mapped to at a time."""

_GAIN = 1.25
"""How many times as fast it must be on a large map where it is measured."""

chosen = os.environ.get("RCNN_WINOGRAD")
"""By the user: ``RCNN_WINOGRAD=0`` in the environment leaves all convolutions to PyTorch, 1 measures nothing."""


def pays(x: Tensor, weight: Tensor, how: tuple[Any, ...]) -> bool:
    """Whether a convolution is of the kind and size that is faster this way, on this processor.

    Args:
        x: (B, C, H, W).
        weight: (O, C, k, k).
        how: stride, padding, dilation and groups.
    """
    return (
        chosen != "0"
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.shape[2:] == (3, 3)
        and how == _HOW
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and len(x) * _filter(x).numbers_of(x) >= _LEAST_NUMBERS
        and not torch.compiler.is_compiling()
        and (chosen is not None or _is_faster())
    )


def _is_faster() -> bool:
    """Where it was found to be, and where a processor that is not known says so, unless every bit counts."""
    return _is_known() or (not torch.are_deterministic_algorithms_enabled() and gain() >= _GAIN)


@cache
def _is_known() -> bool:
    """Intel's: 1.9 (AVX-512) and 2.3 times as fast (AVX2). AMD's Zen 4: 0.9 to 2.2, whole steps 1.01 to 1.22.

    Asked beside other work, which training is full of, the Zen 4 answers anything from 0.3 to 1.7.
    """
    cpuinfo = Path("/proc/cpuinfo")
    told = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else platform.processor()
    capability = torch.backends.cpu.get_cpu_capability()
    if "GenuineIntel" in told:
        return capability != "DEFAULT"
    family_25 = re.search(r"^cpu family\s*: 25$", told, re.MULTILINE) is not None  # Zen 3 and 4, which has AVX-512
    return "AuthenticAMD" in told and family_25 and capability.startswith("AVX512")


@cache
def gain() -> float:
    """How many times as fast as PyTorch's this convolution is on this processor; found in a tenth of a second.

    That depends on two libraries: oneDNN's convolution, and the matrix product of MKL or another.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        x, weight = torch.ones(1, 256, 64, 64, **_PLAIN), torch.ones(256, 256, 3, 3, **_PLAIN)
        x, weight = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
        plain, fast = best_seconds([lambda: F.conv2d(x, weight, padding=1), lambda: convolution(x, weight)], rounds=3)
    return plain / fast


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """The convolution with stride and padding 1; autograd does not see it.

    Args:
        x: (B, C, H, W) float32.
        weight: (O, C, 3, 3) float32.
        bias: (O,) float32, or None.
        relu: the result is clipped at 0.

    Returns:
        (B, O, H, W) float32, channels last.
    """
    return _correlation(x, weight, bias, relu)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of ``x`` (B, C, H, W) from that of the result (B, O, H, W): a convolution with the weight turned."""
    return _correlation(grad, weight, turned=True)


def _correlation(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False, turned: bool = False
) -> Tensor:
    axis = int(turned)  # of the weight, along which the result has its channels
    out = weight.shape[axis]
    # No view of anything, so that it may be overwritten.
    y = torch.empty((len(x), out, *x.shape[2:]), memory_format=torch.channels_last, **_PLAIN)
    step = _step(x, out)
    biases = repeat(None) if bias is None else bias.split(step)
    for part, shift, target in zip(weight.split(step, axis), biases, y.split(step, dim=1), strict=False):
        work = _Work(x, part.shape[axis])
        kernel = work.kernel(part, turned)
        for piece in work.pieces:
            pixels = work.pixels(work.numbers(piece), kernel)
            if shift is not None:
                pixels.view(-1, len(shift)).add_(shift)
            if relu:
                pixels.relu_()
            work.write(target, pixels, piece)
    return y


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight (O, C, 3, 3) from that of the result (B, O, H, W) and ``x`` (B, C, H, W)."""
    out, channels = grad.shape[1], x.shape[1]
    to_weight = torch.empty((out, channels, 3, 3), memory_format=torch.channels_last, **_PLAIN)
    step = _step(x, out)
    for part, target in zip(grad.split(step, dim=1), to_weight.split(step), strict=True):
        work = _Work(x, len(target), learns=True)
        for piece in work.pieces:
            work.learn(work.numbers(piece), part, piece)
        target.copy_(work.taps())
    return to_weight


class _Filter:
    """Tiles of one size, and what maps them, weights and products: :attr:`edge`, :attr:`reach` r."""

    def __init__(self, edge: int) -> None:
        self.edge, self.reach = edge, edge + 2
        """Of a tile of the result, and of what it is made of."""
        self.numbers = self.reach**2
        """That a tile is mapped to."""
        tile, weight, pixels = _maps([Fraction(point) for point in _POINTS[edge]])
        self.from_input = tile
        """(r, r), for rows and then for columns: with r * r rows it would take more multiplications than it saves."""
        self.from_weight = torch.kron(weight, weight)
        """(r * r, 9), for both at once."""
        self.to_pixels = torch.kron(pixels, pixels)
        """(edge * edge, r * r), for both at once."""

    def tiles(self, edge: int) -> int:
        """That cover an edge of a map."""
        return -(-edge // self.edge)

    def numbers_of(self, x: Tensor) -> int:
        """That all tiles of a map are mapped to."""
        return self.tiles(x.shape[2]) * self.tiles(x.shape[3]) * self.numbers


def _filter(x: Tensor) -> _Filter:
    return _FILTERS[7 if x.shape[2] in _ROIS and x.shape[3] in _ROIS else 4]


def _step(x: Tensor, out: int) -> int:
    """Channels of the result that are computed at a time, about as many each time."""
    return -(-out // -(-out * x.shape[1] * _filter(x).numbers // _WEIGHT))


class _Piece(NamedTuple):
    """Whole images, or rows of tiles of one."""

    first: int
    images: int
    row: int
    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        return self.images * self.rows * self.columns


def _pieces(filter: _Filter, batch: int, height: int, width: int, channels: int) -> Iterator[_Piece]:
    rows, columns = filter.tiles(height), filter.tiles(width)
    most = _PIECE * _threads() // (filter.numbers * channels)
    together = most // (rows * columns)
    if together:
        for first in range(0, batch, together):
            yield _Piece(first, min(together, batch - first), 0, rows, columns)
        return
    step = max(1, most // columns)
    for image in range(batch):
        for row in range(0, rows, step):
            yield _Piece(image, 1, row, min(step, rows - row), columns)


class _Scratch(threading.local):
    """Memory of a thread, for one convolution after the other: new memory comes from the system page by page.

    All that is ever wanted is asked for at once: what is grown and freed again leaves holes between other tensors.
    """

    memory = torch.empty(0, **_PLAIN)

    def take(self, *sizes: int) -> tuple[Tensor, ...]:
        if len(self.memory) < sum(sizes):
            most = _WEIGHT + 4 * _PIECE * _threads()
            with torch.inference_mode(False):
                self.memory = torch.empty(max(most, sum(sizes)), **_PLAIN)
        return self.memory[: sum(sizes)].split(sizes)


_scratch = _Scratch()


def _threads() -> int:
    return min(torch.get_num_threads(), 16)


class _Work:
    """The pieces of ``x``, and memory for one of them and for what the weight is mapped to."""

    def __init__(self, x: Tensor, out: int, learns: bool = False) -> None:
        self._x, self._width, self._filter, self._out = x, x.shape[3], _filter(x), out
        edge, numbers, channels = self._filter.edge, self._filter.numbers, x.shape[1]
        wider = max(channels, out)
        self.pieces = list(_pieces(self._filter, len(x), x.shape[2], x.shape[3], wider))
        band = wider * max(p.images * (p.rows * edge + 2) * (p.columns * edge + 2) for p in self.pieces)
        tiles = numbers * wider * max(piece.tiles for piece in self.pieces)
        self._one, self._two, self._band, weight, self._three = _scratch.take(
            tiles, tiles, band, numbers * out * channels, learns * tiles
        )
        self._weight = _shaped(weight, numbers, out * channels)
        if learns:
            self._weight.zero_()

    def kernel(self, weight: Tensor, turned: bool) -> Tensor:
        """(r * r, channels of x, of the result): what a weight (O, C, 3, 3) is mapped to, turned with O those of x."""
        matrix = self._filter.from_weight.flip(1) if turned else self._filter.from_weight
        taps = weight.permute(2, 3, 0, 1) if turned else weight.permute(2, 3, 1, 0)
        return torch.mm(matrix, taps.reshape(9, -1), out=self._weight).view(-1, *taps.shape[2:])

    def numbers(self, piece: _Piece) -> Tensor:
        """(r * r, tiles, C), what the tiles of a piece are mapped to; lies in ``one``."""
        _, images, row, rows, columns = piece
        edge, reach, channels = self._filter.edge, self._filter.reach, self._x.shape[1]
        band = _shaped(self._band, images, rows * edge + 2, columns * edge + 2, channels)
        inside = self._rows(self._x, piece, around=1)
        top, right = int(row == 0), self._width + 1
        bottom = top + inside.shape[1]
        for beyond in (band[:, :top], band[:, bottom:], band[:, :, :1], band[:, :, right:]):
            beyond.zero_()
        band[:, top:bottom, 1:right] = inside
        image, down, along, _ = band.stride()
        shape = (reach, reach, images, rows, columns, channels)
        tiles = band.as_strided(shape, (down, along, image, down * edge, along * edge, 1))
        gathered = _shaped(self._one, *shape).copy_(tiles).view(reach, -1)
        half = torch.mm(self._filter.from_input, gathered, out=_shaped(self._two, *gathered.shape))
        matrices, half = self._filter.from_input.expand(reach, reach, reach), half.view(reach, reach, -1)
        numbers = torch.bmm(matrices, half, out=_shaped(self._one, *half.shape))
        return numbers.view(-1, piece.tiles, channels)

    def pixels(self, numbers: Tensor, kernel: Tensor) -> Tensor:
        """(edge * edge, tiles * O), the result of a piece; lies in ``one``."""
        products = torch.bmm(numbers, kernel, out=_shaped(self._two, *numbers.shape[:2], self._out)).flatten(1)
        pixels = _shaped(self._one, self._filter.edge**2, products.shape[1])
        return torch.mm(self._filter.to_pixels, products, out=pixels)

    def learn(self, numbers: Tensor, grad: Tensor, piece: _Piece) -> None:
        """Adds what a piece says of the weight."""
        pixels = self._read(grad, piece)
        products = _shaped(self._three, len(numbers), pixels.shape[1])
        torch.mm(self._filter.to_pixels.t(), pixels, out=products)
        total = self._weight.view(len(numbers), self._out, -1)
        total.baddbmm_(products.view(len(numbers), -1, self._out).transpose(1, 2), numbers)

    def taps(self) -> Tensor:
        """The gradient of the weight (O, C, 3, 3), from what was added."""
        taps = torch.mm(self._filter.from_weight.t(), self._weight)
        return taps.view(3, 3, self._out, -1).permute(2, 3, 0, 1)

    def write(self, y: Tensor, pixels: Tensor, piece: _Piece) -> None:
        """Puts the pixels of a piece into ``y`` (B, O, H, W)."""
        _, images, _, rows, columns = piece
        edge, target = self._filter.edge, self._rows(y, piece)
        tiles = pixels.view(edge, edge, images, rows, columns, self._out).permute(2, 3, 0, 4, 1, 5)
        if target.shape[1:3] == (rows * edge, columns * edge):
            target.unflatten(2, (columns, edge)).unflatten(1, (rows, edge)).copy_(tiles)
        else:
            whole = _shaped(self._band, *tiles.shape).copy_(tiles).flatten(3, 4).flatten(1, 2)
            target.copy_(whole[:, : target.shape[1], : self._width])

    def _read(self, grad: Tensor, piece: _Piece) -> Tensor:
        """The pixels (edge * edge, tiles * O) of a piece of ``grad`` (B, O, H, W); lie in ``two``."""
        _, images, _, rows, columns = piece
        edge, source = self._filter.edge, self._rows(grad, piece)
        if source.shape[1:3] != (rows * edge, columns * edge):
            whole = _shaped(self._band, images, rows * edge, columns * edge, self._out)
            whole[:, source.shape[1] :].zero_()
            whole[:, :, self._width :].zero_()
            whole[:, : source.shape[1], : self._width] = source
            source = whole
        tiles = source.unflatten(2, (columns, edge)).unflatten(1, (rows, edge)).permute(2, 4, 0, 1, 3, 5)
        return _shaped(self._two, *tiles.shape).copy_(tiles).view(edge**2, -1)

    def _rows(self, maps: Tensor, piece: _Piece, around: int = 0) -> Tensor:
        """(images, rows, W, C) of (B, C, H, W), with so many above and below as there are."""
        begin, end = (row * self._filter.edge for row in (piece.row, piece.row + piece.rows))
        images = slice(piece.first, piece.first + piece.images)
        return maps.permute(0, 2, 3, 1)[images, max(begin - around, 0) : end + around]


def _shaped(memory: Tensor, *shape: int) -> Tensor:
    return memory[: math.prod(shape)].view(shape)


def _maps(points: Sequence[Fraction]) -> tuple[Tensor, Tensor, Tensor]:
    """What maps pixels to numbers (r, r), weights to numbers (r, 3) and products to pixels (r - 2, r), along an edge.

    r pixels correlated with three weights are the product of two polynomials by Toom and Cook, transposed.
    """
    reach = len(points) + 1
    tile, weight = torch.zeros(reach, reach, **_PLAIN), torch.zeros(reach, 3, **_PLAIN)
    pixels = torch.zeros(reach - 2, reach, **_PLAIN)
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        tile[i, :-1] = torch.tensor(_coefficients(others), **_PLAIN)
        weight[i] = torch.tensor([float(point**k / scale) for k in range(3)], **_PLAIN)
        pixels[:, i] = torch.tensor([float(point**k) for k in range(reach - 2)], **_PLAIN)
    tile[-1] = torch.tensor(_coefficients(points), **_PLAIN)  # infinity
    weight[-1, -1] = pixels[-1, -1] = 1
    return tile, weight, pixels


def _coefficients(roots: Sequence[Fraction]) -> list[float]:
    """Of the polynomial with these roots, the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [above - root * here for above, here in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return [float(value) for value in found]


_FILTERS = {edge: _Filter(edge) for edge in _POINTS}
