"""Winograd's convolution with PyTorch's matrix products, in pieces that fit into the caches.

The transforms are matrix products, too, so the CPU's own library does all the work.
"""

import torch
from torch import Tensor

from backbones.fast.winograd import tiles
from backbones.fast.winograd.tiles import Filter, Piece, pieces, scratch, shaped, threads

IN_BFLOAT16 = False
"""Whether this implementation is also faster than PyTorch in bfloat16."""
MULTIPLE = 1
"""The number that channels must be a multiple of."""


class Work:
    """The pieces of ``x``, and memory for one transformed piece and for the transformed weight."""

    def __init__(self, x: Tensor, filter: Filter, out: int, trainable: bool = False) -> None:
        self._x, self._width, self._filter, self._out = x, x.shape[3], filter, out
        edge, numbers, channels = filter.edge, filter.numbers, x.shape[1]
        wider = max(channels, out)
        self.pieces = list(pieces(x, filter, wider, tiles.PIECE * threads()))
        band = wider * max(p.images * (p.rows * edge + 2) * (p.columns * edge + 2) for p in self.pieces)
        mapped = numbers * wider * max(piece.tiles for piece in self.pieces)
        self._one, self._two, self._band, weight, self._three = scratch.take(
            mapped,
            mapped,
            band,
            numbers * out * channels,
            trainable * mapped,
            most=tiles.WEIGHT + 4 * tiles.PIECE * threads(),
        )
        self._weight = shaped(weight, numbers, out * channels)
        if trainable:
            self._weight.zero_()

    def kernel(self, weight: Tensor, rotated: bool) -> Tensor:
        """Return the transform (r * r, channels of x, channels of the result) of a weight (O, C, 3, 3).

        If ``rotated``, O are the channels of ``x``.
        """
        matrix = _both(self._filter.from_weight)
        matrix = matrix.flip(1) if rotated else matrix
        taps = weight.permute(2, 3, 0, 1) if rotated else weight.permute(2, 3, 1, 0)
        return torch.mm(matrix, taps.reshape(9, -1), out=self._weight).view(-1, *taps.shape[2:])

    def numbers(self, piece: Piece) -> Tensor:
        """Return the transformed tiles of a piece (r * r, tiles, C), stored in ``_one``."""
        _, images, row, rows, columns = piece
        edge, reach, channels = self._filter.edge, self._filter.reach, self._x.shape[1]
        band = shaped(self._band, images, rows * edge + 2, columns * edge + 2, channels)
        inside = self._rows(self._x, piece, around=1)
        top, right = int(row == 0), self._width + 1
        bottom = top + inside.shape[1]
        for beyond in (band[:, :top], band[:, bottom:], band[:, :, :1], band[:, :, right:]):
            beyond.zero_()
        band[:, top:bottom, 1:right] = inside
        image, down, along, _ = band.stride()
        shape = (reach, reach, images, rows, columns, channels)
        tiles = band.as_strided(shape, (down, along, image, down * edge, along * edge, 1))
        gathered = shaped(self._one, *shape).copy_(tiles).view(reach, -1)
        half = torch.mm(self._filter.from_input, gathered, out=shaped(self._two, *gathered.shape))
        matrices, half = self._filter.from_input.expand(reach, reach, reach), half.view(reach, reach, -1)
        numbers = torch.bmm(matrices, half, out=shaped(self._one, *half.shape))
        return numbers.view(-1, piece.tiles, channels)

    def accumulate(self, grad: Tensor, piece: Piece) -> None:
        """Add a piece's part of the weight gradient."""
        numbers = self.numbers(piece)
        pixels = self._read(grad, piece)
        products = shaped(self._three, len(numbers), pixels.shape[1])
        torch.mm(_both(self._filter.to_pixels).t(), pixels, out=products)
        total = self._weight.view(len(numbers), self._out, -1)
        total.baddbmm_(products.view(len(numbers), -1, self._out).transpose(1, 2), numbers)

    def write_gradient(self, to_weight: Tensor) -> None:
        """Write the sum of all pieces into the weight gradient (O, C, 3, 3)."""
        taps = torch.mm(_both(self._filter.from_weight).t(), self._weight)
        to_weight.copy_(taps.view(3, 3, self._out, -1).permute(2, 3, 0, 1))

    def write(self, y: Tensor, kernel: Tensor, bias: Tensor | None, relu: bool, piece: Piece) -> None:
        """Write the result pixels of a piece into ``y`` (B, O, H, W)."""
        numbers = self.numbers(piece)
        products = torch.bmm(numbers, kernel, out=shaped(self._two, *numbers.shape[:2], self._out)).flatten(1)
        pixels = shaped(self._one, self._filter.edge**2, products.shape[1])
        torch.mm(_both(self._filter.to_pixels), products, out=pixels)
        if bias is not None:
            pixels.view(-1, len(bias)).add_(bias)
        if relu:
            pixels.relu_()
        _, images, _, rows, columns = piece
        edge, target = self._filter.edge, self._rows(y, piece)
        tiles = pixels.view(edge, edge, images, rows, columns, self._out).permute(2, 3, 0, 4, 1, 5)
        if target.shape[1:3] == (rows * edge, columns * edge):
            target.unflatten(2, (columns, edge)).unflatten(1, (rows, edge)).copy_(tiles)
        else:
            whole = shaped(self._band, *tiles.shape).copy_(tiles).flatten(3, 4).flatten(1, 2)
            target.copy_(whole[:, : target.shape[1], : self._width])

    def _read(self, grad: Tensor, piece: Piece) -> Tensor:
        """Return the pixels (edge * edge, tiles * O) of a piece of ``grad`` (B, O, H, W), stored in ``_two``."""
        _, images, _, rows, columns = piece
        edge, source = self._filter.edge, self._rows(grad, piece)
        if source.shape[1:3] != (rows * edge, columns * edge):
            whole = shaped(self._band, images, rows * edge, columns * edge, self._out)
            whole[:, source.shape[1] :].zero_()
            whole[:, :, self._width :].zero_()
            whole[:, : source.shape[1], : self._width] = source
            source = whole
        tiles = source.unflatten(2, (columns, edge)).unflatten(1, (rows, edge)).permute(2, 4, 0, 1, 3, 5)
        return shaped(self._two, *tiles.shape).copy_(tiles).view(edge**2, -1)

    def _rows(self, maps: Tensor, piece: Piece, around: int = 0) -> Tensor:
        """Return a piece's rows (images, rows, W, C) of (B, C, H, W), with up to ``around`` rows above and below."""
        begin, end = (row * self._filter.edge for row in (piece.row, piece.row + piece.rows))
        images = slice(piece.first, piece.first + piece.images)
        return maps.permute(0, 2, 3, 1)[images, max(begin - around, 0) : end + around]


def _both(matrix: Tensor) -> Tensor:
    """Return the matrix that transforms rows and columns at once; for the input, it would cost more than it saves."""
    return torch.kron(matrix, matrix)
