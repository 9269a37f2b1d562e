"""3x3 convolutions by minimal filtering: a quarter of the multiplications, in float32 on a processor.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), F(4x4, 3x3): a tile of 6x6
pixels and the 3x3 weights are mapped to 36 numbers each, the products of which, summed over the channels, are mapped to
the 4x4 pixels of the result in the middle of the tile. Over all tiles these are 36 matrix products. The maps are matrix
products as well, so that the processor's own library does all the work, in pieces that stay in its caches.
"""

import math
import os
import platform
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

_TILE, _REACH = 4, 6
"""Edges of a tile of the result, and of what it is made of."""
_PIXELS, _NUMBERS = _TILE**2, _REACH**2
_POINTS = (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))
"""Where polynomials are taken, besides infinity. Of all that were tried, these lose least in float32: 2e-5 of the
result's standard deviation at worst, where other orders of summation lose 1e-5."""

_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Whatever the defaults are."""
_HOW = ((1, 1), (1, 1), (1, 1), 1)
"""Stride, padding, dilation and groups."""
_LEAST_CHANNELS, _LEAST_TILES = 128, 48
"""With less, the maps take longer than what they save."""
_PIECE = 84 * 256
"""Tiles times channels of a piece, for each thread."""
_WEIGHT = 512 * 256
"""Pairs of channels that are computed at a time."""

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
        and x.shape[0] * _tiles(x.shape[2]) * _tiles(x.shape[3]) >= _LEAST_TILES
        and not torch.compiler.is_compiling()
        and (chosen is not None or _is_faster())
    )


def _is_faster() -> bool:
    """On Intel's it is 1.9 (AVX-512) and 2.3 times as fast (AVX2); others are asked, unless every bit counts."""
    return _is_intel() or (not torch.are_deterministic_algorithms_enabled() and gain() >= _GAIN)


@cache
def _is_intel() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    name = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else platform.processor()
    return "GenuineIntel" in name and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


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
    # No view of anything, so that it may be overwritten.
    y = torch.empty((len(x), len(weight), *x.shape[2:]), memory_format=torch.channels_last, **_PLAIN)
    step = _step(x)
    biases = repeat(None) if bias is None else bias.split(step)
    for part, shift, target in zip(weight.split(step), biases, y.split(step, dim=1), strict=False):
        out, work = len(part), _Work(x, len(part))
        kernel = _kernel(part, work.weight)
        for piece in work.pieces:
            products = torch.bmm(work.numbers(piece), kernel, out=_shaped(work.one, _NUMBERS, piece.tiles, out))
            pixels = torch.mm(_TO_PIXELS, products.flatten(1), out=_shaped(work.two, _PIXELS, piece.tiles * out))
            if shift is not None:
                pixels.view(-1, out).add_(shift)
            if relu:
                pixels.relu_()
            work.write(target, pixels, piece)
    return y


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of ``x`` (B, C, H, W) from that of the result (B, O, H, W): a convolution with the weight turned."""
    return convolution(grad, weight.flip(2, 3).transpose(0, 1))


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight (O, C, 3, 3) from that of the result (B, O, H, W) and ``x`` (B, C, H, W)."""
    parts = [_weight_gradient(part, x) for part in grad.split(_step(x), dim=1)]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    out, channels = grad.shape[1], x.shape[1]
    work = _Work(x, out, more=1)
    total = _shaped(work.weight, _NUMBERS, out, channels).zero_()
    for piece in work.pieces:
        numbers, pixels = work.numbers(piece), work.read(grad, piece)
        products = torch.mm(_TO_PIXELS.t(), pixels, out=_shaped(work.three, _NUMBERS, piece.tiles * out))
        total.baddbmm_(products.view(_NUMBERS, piece.tiles, out).transpose(1, 2), numbers)
    return torch.mm(_FROM_WEIGHT.t(), total.flatten(1)).view(3, 3, out, channels).permute(2, 3, 0, 1)


def _step(x: Tensor) -> int:
    """Channels of the result that are computed at a time."""
    return max(1, _WEIGHT // x.shape[1])


def _kernel(weight: Tensor, memory: Tensor) -> Tensor:
    """(36, C, O), what a weight (O, C, 3, 3) is mapped to."""
    out, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, channels * out)
    return torch.mm(_FROM_WEIGHT, taps, out=_shaped(memory, _NUMBERS, channels * out)).view(_NUMBERS, channels, out)


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


def _pieces(batch: int, height: int, width: int, channels: int) -> Iterator[_Piece]:
    rows, columns = _tiles(height), _tiles(width)
    most = _PIECE * _threads() // channels
    together = most // (rows * columns)
    if together:
        for first in range(0, batch, together):
            yield _Piece(first, min(together, batch - first), 0, rows, columns)
        return
    step = max(1, most // columns)
    for image in range(batch):
        for row in range(0, rows, step):
            yield _Piece(image, 1, row, min(step, rows - row), columns)


def _tiles(edge: int) -> int:
    return -(-edge // _TILE)


class _Scratch(threading.local):
    """Memory of a thread, for one convolution after the other: new memory comes from the system page by page.

    All that is ever wanted is asked for at once: what is grown and freed again leaves holes between other tensors.
    """

    memory = torch.empty(0, **_PLAIN)

    def take(self, *sizes: int) -> tuple[Tensor, ...]:
        if len(self.memory) < sum(sizes):
            most = _NUMBERS * (_WEIGHT + 4 * _PIECE * _threads())
            with torch.inference_mode(False):
                self.memory = torch.empty(max(most, sum(sizes)), **_PLAIN)
        return self.memory[: sum(sizes)].split(sizes)


_scratch = _Scratch()


def _threads() -> int:
    return min(torch.get_num_threads(), 16)


class _Work:
    """The pieces of ``x``, and memory for one of them and for what the weight is mapped to."""

    def __init__(self, x: Tensor, out: int, more: int = 0) -> None:
        self._x, self._width = x, x.shape[3]
        channels = x.shape[1]
        wider = max(channels, out)
        self.pieces = list(_pieces(len(x), x.shape[2], x.shape[3], wider))
        band = wider * max(p.images * (p.rows * _TILE + 2) * (p.columns * _TILE + 2) for p in self.pieces)
        tiles = _NUMBERS * wider * max(piece.tiles for piece in self.pieces)
        self.one, self.two, self._band, self.weight, self.three = _scratch.take(
            tiles, tiles, band, _NUMBERS * out * channels, more * tiles
        )

    def numbers(self, piece: _Piece) -> Tensor:
        """(36, tiles, C), what the tiles of a piece are mapped to; lies in ``two``."""
        _, images, row, rows, columns = piece
        channels = self._x.shape[1]
        band = _shaped(self._band, images, rows * _TILE + 2, columns * _TILE + 2, channels)
        inside = _rows(self._x, piece, around=1)
        top, right = int(row == 0), self._width + 1
        bottom = top + inside.shape[1]
        for beyond in (band[:, :top], band[:, bottom:], band[:, :, :1], band[:, :, right:]):
            beyond.zero_()
        band[:, top:bottom, 1:right] = inside
        image, down, along, _ = band.stride()
        shape = (_REACH, _REACH, images, rows, columns, channels)
        tiles = band.as_strided(shape, (down, along, image, down * _TILE, along * _TILE, 1))
        gathered = _shaped(self.one, *shape).copy_(tiles).view(_NUMBERS, -1)
        numbers = torch.mm(_FROM_INPUT, gathered, out=_shaped(self.two, *gathered.shape))
        return numbers.view(_NUMBERS, piece.tiles, channels)

    def write(self, y: Tensor, pixels: Tensor, piece: _Piece) -> None:
        """Puts the pixels (16, tiles * O) of a piece into ``y`` (B, O, H, W)."""
        _, images, _, rows, columns = piece
        out, target = y.shape[1], _rows(y, piece)
        tiles = pixels.view(_TILE, _TILE, images, rows, columns, out).permute(2, 3, 0, 4, 1, 5)
        if target.shape[1:3] == (rows * _TILE, columns * _TILE):
            target.unflatten(2, (columns, _TILE)).unflatten(1, (rows, _TILE)).copy_(tiles)
        else:
            whole = _shaped(self._band, *tiles.shape).copy_(tiles).flatten(3, 4).flatten(1, 2)
            target.copy_(whole[:, : target.shape[1], : self._width])

    def read(self, grad: Tensor, piece: _Piece) -> Tensor:
        """The pixels (16, tiles * O) of a piece of ``grad`` (B, O, H, W); lie in ``one``."""
        _, images, _, rows, columns = piece
        out, source = grad.shape[1], _rows(grad, piece)
        if source.shape[1:3] != (rows * _TILE, columns * _TILE):
            whole = _shaped(self._band, images, rows * _TILE, columns * _TILE, out)
            whole[:, source.shape[1] :].zero_()
            whole[:, :, self._width :].zero_()
            whole[:, : source.shape[1], : self._width] = source
            source = whole
        tiles = source.unflatten(2, (columns, _TILE)).unflatten(1, (rows, _TILE)).permute(2, 4, 0, 1, 3, 5)
        return _shaped(self.one, *tiles.shape).copy_(tiles).view(_PIXELS, -1)


def _shaped(memory: Tensor, *shape: int) -> Tensor:
    return memory[: math.prod(shape)].view(shape)


def _rows(maps: Tensor, piece: _Piece, around: int = 0) -> Tensor:
    """(images, rows, W, C) of (B, C, H, W), with so many above and below as there are."""
    begin, end = piece.row * _TILE, (piece.row + piece.rows) * _TILE
    return maps.permute(0, 2, 3, 1)[piece.first : piece.first + piece.images, max(begin - around, 0) : end + around]


def _maps() -> tuple[Tensor, Tensor, Tensor]:
    """What maps a tile to its numbers (36, 36), the weight to its numbers (36, 9) and products to pixels (16, 36).

    Six pixels correlated with three weights are the product of two polynomials by Toom and Cook, transposed.
    """
    tile, weight = torch.zeros(_REACH, _REACH, **_PLAIN), torch.zeros(_REACH, 3, **_PLAIN)
    pixels = torch.zeros(_TILE, _REACH, **_PLAIN)
    for i, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        scale = math.prod(point - other for other in others)
        tile[i, :-1] = torch.tensor(_coefficients(others), **_PLAIN)
        weight[i] = torch.tensor([float(point**k / scale) for k in range(3)], **_PLAIN)
        pixels[:, i] = torch.tensor([float(point**k) for k in range(_TILE)], **_PLAIN)
    tile[-1] = torch.tensor(_coefficients(_POINTS), **_PLAIN)  # infinity
    weight[-1, -1] = pixels[-1, -1] = 1
    return torch.kron(tile, tile), torch.kron(weight, weight), torch.kron(pixels, pixels)


def _coefficients(roots: Sequence[Fraction]) -> list[float]:
    """Of the polynomial with these roots, the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [above - root * here for above, here in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return [float(value) for value in found]


_FROM_INPUT, _FROM_WEIGHT, _TO_PIXELS = _maps()
