"""Winograd's convolution in C (``winograd.c``), compiled for this CPU.

One pass transforms the input, one multiplies, and one transforms the products to pixels. The alternative without a
compiler, :mod:`backbones.fast.winograd.products`, needs more time for its transforms than for its products: libraries
are slow for matrices with nine rows.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from backbones.fast import compiled
from backbones.fast.winograd import tiles
from backbones.fast.winograd.tiles import Filter, Piece, pieces, scratch, threads

IN_BFLOAT16 = True
"""Whether this implementation is also faster than PyTorch in bfloat16."""
MULTIPLE, CHUNK, GAP = 32, 256, 16
"""Constants of ``winograd.c``: the number that channels must be a multiple of; most channels for which products may
overwrite the transformed input; numbers between two matrices."""


@cache
def _library() -> ctypes.CDLL | None:
    return compiled.library(Path(__file__).with_name("winograd.c"), functions=("spread", "gather", "multiply"))


def usable(*channels: int) -> bool:
    """Return whether the C code is available and supports these numbers of channels."""
    return all(number % MULTIPLE == 0 for number in channels) and _library() is not None


class Work:
    """The pieces of ``x``, and memory for one transformed piece and for the transformed weight."""

    def __init__(self, x: Tensor, filter: Filter, out: int, trainable: bool = False) -> None:
        self._x, self._filter, self._channels, self._out = x, filter, x.shape[1], out
        numbers, wider = filter.numbers, max(self._channels, out)
        alone = out == self._channels <= CHUNK and not trainable
        most = 2 * tiles.PIECE * threads()  # large pieces, as a product with few rows is slow
        self.pieces = list(pieces(x, filter, wider, most if alone else most // 2))
        gaps = numbers * GAP
        mapped = numbers * wider * max(piece.tiles for piece in self.pieces) + gaps
        self._one, two, self._weight = scratch.take(
            mapped, 0 if alone else mapped, numbers * out * self._channels + gaps, most=tiles.WEIGHT + most + 3 * gaps
        )
        self._two = self._one if alone else two

    def kernel(self, weight: Tensor, rotated: bool) -> Tensor:
        """Return the transform of a weight (O, C, 3, 3); if ``rotated``, O are the channels of ``x``."""
        weight = weight.contiguous(memory_format=torch.channels_last)
        taps = weight if rotated else _transposed(weight)  # (channels of x, channels of the result, 3, 3)
        matrix = self._filter.from_weight
        self._spread(taps, _whole(taps), 0, 0, matrix.flip(1) if rotated else matrix, self._weight, panels=True)
        return self._weight

    def numbers(self, piece: Piece) -> Tensor:
        """Return the transformed tiles of a piece (r * r, tiles, C), stored in ``_one``."""
        self._spread(self._x, piece, self._filter.edge, 1, self._filter.from_input, self._one)
        return self._one

    def write(self, y: Tensor, kernel: Tensor, bias: Tensor | None, relu: bool, piece: Piece) -> None:
        """Write the result pixels of a piece into ``y`` (B, O, H, W)."""
        self._multiply(self.numbers(piece), kernel, self._two, piece.tiles, self._channels, self._out)
        shift = None if bias is None else bias.float().contiguous()
        self._gather(y, piece, self._filter.to_pixels, self._two, shift, relu)

    def accumulate(self, grad: Tensor, piece: Piece) -> None:
        """Add a piece's part of the weight gradient; the first piece sets the sum."""
        edge = self._filter.edge
        self._spread(grad, piece, edge, 0, self._filter.to_pixels.t(), self._one)
        self._spread(self._x, piece, edge, 1, self._filter.from_input, self._two, panels=True)
        shape = self._out, piece.tiles, self._channels
        self._multiply(self._one, self._two, self._weight, *shape, rotated=True, add=piece != self.pieces[0])

    def write_gradient(self, to_weight: Tensor) -> None:
        """Write the sum of all pieces into the weight gradient (O, C, 3, 3), channels last."""
        self._gather(to_weight, _whole(to_weight), self._filter.from_weight.t(), self._weight, None, False)

    def _spread(
        self, x: Tensor, piece: Piece, edge: int, border: int, matrix: Tensor, to: Tensor, panels: bool = False
    ) -> None:
        reach, size = matrix.shape
        _call("spread", _Maps.of(x), piece, x.shape[1], edge, border, matrix.contiguous(), size, reach, to, panels)

    def _gather(
        self, y: Tensor, piece: Piece, matrix: Tensor, products: Tensor, bias: Tensor | None, relu: bool
    ) -> None:
        _call("gather", _Maps.of(y), piece, y.shape[1], matrix.contiguous(), *matrix.shape, products, bias, relu)

    def _multiply(
        self,
        a: Tensor,
        b: Tensor,
        to: Tensor,
        rows: int,
        length: int,
        columns: int,
        rotated: bool = False,
        add: bool = False,
    ) -> None:
        _call("multiply", a, b, to, self._filter.numbers, rows, length, columns, rotated, add)


def _transposed(weight: Tensor) -> Tensor:
    """Transpose (O, C, 3, 3) in channels-last layout to (C, O, 3, 3) with O contiguous; fast, as it moves two axes."""
    rows = weight.permute(0, 2, 3, 1).flatten(1).t().contiguous()  # (9 * C, O)
    return rows.view(3, 3, -1, len(weight)).permute(2, 3, 0, 1)


def _whole(taps: Tensor) -> Piece:
    """Return the piece that treats each 3x3 kernel as one tile."""
    return Piece(0, len(taps), 0, 1, 1)


class _Maps(ctypes.Structure):
    """The C struct for a tensor (B, C, H, W), channels last."""

    _fields_ = [("data", ctypes.c_void_p)] + [
        (name, ctypes.c_int64) for name in ("image", "row", "column", "height", "width", "half")
    ]

    @classmethod
    def of(cls, x: Tensor) -> "_Maps":
        image, _, row, column = (stride * x.element_size() for stride in x.stride())
        return cls(x.data_ptr(), image, row, column, *x.shape[2:], x.dtype == torch.bfloat16)


class _Piece(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in Piece._fields]


def _call(name: str, *arguments: Tensor | Piece | _Maps | int | None) -> None:
    """Call a function of the C code with PyTorch's number of threads."""
    given = (_Piece(*value) if isinstance(value, Piece) else value for value in arguments)
    compiled.call(_library(), name, *given, torch.get_num_threads())
