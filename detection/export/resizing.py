"""Resize images inside an exported file, with the pixels of :class:`~detection.data.transforms.Resize`.

A new pixel is a weighted sum of old ones, along the rows and then down the columns. Engines compute in float32. Places
and weights come from quotients of whole numbers below 2^24, which float32 holds exactly. So are sums of 8-bit pixels.

B images of one size, C channels, H x W image, h x w canvas, n new pixels of a side, T old pixels of each new one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from detection.structures import ResizeMethod

FIXED = 2048
"""OpenCV's weights of 8-bit pixels are multiples of 1 / 2048."""
LEAST_SHARE = 1e-3
"""OpenCV's area mean drops old pixels of which a new one covers less."""


class Taps(NamedTuple):
    """The old pixels of each new one along a side."""

    places: Tensor
    """(n, T) int64."""
    weight: Tensor
    """(n, T)."""


class Resizing(nn.Module):
    """Images of any size on their canvas.

    Args:
        short_side, long_side, method: as of :class:`~detection.data.transforms.Resize`.
        stride: the sides of the canvas are multiples of it.
    """

    def __init__(self, short_side: int, long_side: int, method: ResizeMethod, stride: int) -> None:
        super().__init__()
        self.short_side, self.long_side, self.method, self.stride = short_side, long_side, method, stride

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the canvas (B, C, h, w) and the sizes of the resized images on it (B, 2) int64.

        Args:
            images: (B, H, W, C) uint8 or uint16.
        """
        old = [torch.scalar_tensor(side, dtype=torch.float64) for side in images.shape[1:3]]
        new = new_sides(old, self.short_side, self.long_side, self.method)
        places = [torch.arange(_number((side / self.stride).ceil(), 1) * self.stride).float() for side in new]
        given = (images, *(side.float() for side in (*old, *new)), *places)
        if self.method == "opencv":
            shrinks = 4 * new[0] * new[1] < old[0] * old[1]
            if torch.compiler.is_exporting():
                found = torch.cond(shrinks, area_mean, linear, given)
            else:  # torch.cond would compile both
                found = (area_mean if shrinks else linear)(*given)
        else:
            found = {"bilinear": linear, "pillow": pillow, "tensor": as_tensor}[self.method](*given)
        sizes = torch.stack(new).to(torch.int64).expand(images.shape[0], 2)
        return found.permute(0, 3, 1, 2), sizes


def new_sides(old: list[Tensor], short: int, long: int, method: ResizeMethod) -> list[Tensor]:
    """Return height and width after resizing, float64, as :meth:`~detection.data.transforms.Resize.size`."""
    least, most = torch.minimum(*old), torch.maximum(*old)
    # A number divided by a tensor would round twice: PyTorch computes its reciprocal first.
    wish, limit = torch.full_like(least, short), torch.full_like(least, long)
    if method == "pillow":
        factor = wish / least
        new = [torch.where(side == least, wish, factor * side) for side in old]
        largest = torch.maximum(*new)
        new = [torch.where(largest > long, side * (limit / largest), side) for side in new]
    else:
        factor = torch.minimum(wish / least, limit / most)
        new = [side * factor for side in old]
    rounding = 0 if method == "tensor" else 0.5
    return [(side + rounding).floor().clamp(min=1) for side in new]


def linear(
    images: Tensor, height: Tensor, width: Tensor, rows: Tensor, columns: Tensor, y: Tensor, x: Tensor
) -> Tensor:
    """Return OpenCV's bilinear interpolation (B, h, w, C), with the dtype of the images.

    Args:
        images: (B, H, W, C).
        height, width, rows, columns: sides before and after, float32.
        y, x: (h,) and (w,) places on the canvas, float32.
    """
    across, down = _linear(width, columns, x, clamp=True), _linear(height, rows, y, clamp=False)
    turned = images.transpose(1, 2).float()
    if images.dtype == torch.uint16:
        return _sum(_sum(turned, across).transpose(1, 2), down).round().to(images.dtype)
    across, down = (Taps(taps.places, (taps.weight * FIXED).round()) for taps in (across, down))
    sums = (_sum(turned, across) / 16).floor().transpose(1, 2)  # (B, H, w, C), 15 bits
    high = (sums / 32).floor()
    low = sums / 32 - high
    parts = []
    for k in range(2):  # weight * sum >> 16, in two exact parts
        weight, index = down.weight[:, k, None, None], down.places[:, k]
        product = weight * high.index_select(1, index) + (weight * low.index_select(1, index)).floor()
        parts.append((product / FIXED).floor())
    return ((parts[0] + parts[1] + 2) / 4).floor().to(images.dtype)


def _linear(old: Tensor, new: Tensor, places: Tensor, clamp: bool) -> Taps:
    """Return OpenCV's two bilinear taps; ``clamp`` moves places outside onto the first and the last pixel."""
    whole, part = _scaled(places, old, new)
    twice = 2 * part + old - new  # a pixel's centre is at place + 1/2
    more = _floor(twice, 2 * new)
    at = whole + more + (twice - 2 * new * more) / (2 * new)  # OpenCV rounds the place to float32, too
    first = at.floor()
    share = at - first
    if clamp:
        share = share * ((first >= 0) & (first < old - 1))
    return Taps(_inside(torch.stack([first, first + 1], dim=1), old), torch.stack([1 - share, share], dim=1))


def area_mean(
    images: Tensor, height: Tensor, width: Tensor, rows: Tensor, columns: Tensor, y: Tensor, x: Tensor
) -> Tensor:
    """Return OpenCV's area mean; arguments and result as of :func:`linear`."""
    step_y, step_x = _floor(height, rows), _floor(width, columns)
    whole = (step_y * rows == height) & (step_x * columns == width)  # then OpenCV adds first, and divides last
    down, across = _shares(height, rows, y, whole), _shares(width, columns, x, whole)
    means = _sum(_sum(images.transpose(1, 2).float(), across).transpose(1, 2), down)
    return (
        (means * torch.where(whole, _quotient(torch.ones_like(step_y), step_y * step_x), 1.0)).round().to(images.dtype)
    )


def _shares(old: Tensor, new: Tensor, places: Tensor, whole: Tensor) -> Taps:
    """Return the taps of the area mean along a side: the share of each old pixel in a new one, or 1 for ``whole``."""
    first, part = _scaled(places, old, new)
    cell = torch.arange(_number(_floor(old, new) + 2, 2)).float()
    covered = torch.minimum((part + old)[:, None], (cell + 1) * new) - torch.maximum(part[:, None], cell * new)
    covered = covered.clamp(min=0) * (covered > LEAST_SHARE * new)  # (n, T), a pixel is ``new``
    return Taps(_inside(first[:, None] + cell, old), _quotient(covered, torch.where(whole, new, old)))


def pillow(
    images: Tensor, height: Tensor, width: Tensor, rows: Tensor, columns: Tensor, y: Tensor, x: Tensor
) -> Tensor:
    """Return Pillow's bilinear filter, which grows with the reduction; arguments and result as of :func:`linear`."""
    wide = _whole_sum(images.transpose(1, 2).float(), _filter(width, columns, x)).transpose(1, 2)
    return _whole_sum(wide, _filter(height, rows, y)).to(images.dtype)


def _filter(old: Tensor, new: Tensor, places: Tensor) -> Taps:
    """Return the taps of Pillow's filter; weights are multiples of 2^-22, times 2^22."""
    largest = torch.maximum(old, new)
    whole, part = _scaled(places, old, new)
    start = _floor(2 * part + old + new - 2 * largest, 2 * new)
    cell = start[:, None] + torch.arange(_number((_floor(largest - 1, new) + 1) * 2 + 1, 3)).float()  # (n, T)
    weight = (2 * largest - ((2 * cell + 1) * new - (2 * part + old)[:, None]).abs()).clamp(min=0)
    cell = cell + whole[:, None]
    weight = weight * ((cell >= 0) & (cell < old))
    total = weight.sum(dim=1, keepdim=True).clamp(min=1)
    digits = torch.zeros_like(weight)
    for bits in (8, 8, 6):  # a long division: each step is exact
        weight = weight * 2**bits
        quotient = _floor(weight, total)
        digits, weight = digits * 2**bits + quotient, weight - quotient * total
    return Taps(_inside(cell, old), digits + (2 * weight >= total))


def _whole_sum(x: Tensor, taps: Taps) -> Tensor:
    """Return the sum as Pillow rounds it: (sum of pixels times weights + 2^21) >> 22, in two exact parts."""
    high = (taps.weight / 2048).floor()
    parts = _taken(x, taps.places)
    one, two = ((parts * weight[:, :, None, None]).sum(dim=2) for weight in (high, taps.weight - 2048 * high))
    return ((one + (two / 2048).floor() + 1024) / 2048).floor().clamp(0, 255)


def as_tensor(
    images: Tensor, height: Tensor, width: Tensor, rows: Tensor, columns: Tensor, y: Tensor, x: Tensor
) -> Tensor:
    """Return PyTorch's bilinear interpolation in float32; arguments and result as of :func:`linear`."""
    pixels = images.transpose(1, 2).float() / (257 if images.dtype == torch.uint16 else 1)
    return _sum(_sum(pixels, _torch_linear(width, columns, x)).transpose(1, 2), _torch_linear(height, rows, y))


def _torch_linear(old: Tensor, new: Tensor, places: Tensor) -> Taps:
    at = (old / new * (places + 0.5) - 0.5).clamp(min=0)
    first = at.floor()
    share = at - first
    return Taps(_inside(torch.stack([first, first + 1], dim=1), old), torch.stack([1 - share, share], dim=1))


def _scaled(places: Tensor, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return places times old / new: the whole number, and the remainder times new."""
    step = _floor(old, new)
    product = places * (old - step * new)
    whole = _floor(product, new)
    return places * step + whole, product - whole * new


def _floor(a: Tensor, b: Tensor) -> Tensor:
    """Return the whole part of a / b, of whole numbers.

    OpenVINO multiplies by 1 / b, so that 49 / 49 is below 1.
    """
    found = (a / b).floor()
    rest = a - found * b
    return found + (rest >= b).float() - (rest < 0).float()


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b from 0 to 1, of whole numbers, rounded as a division is, also if an engine multiplies by 1 / b."""
    near = a / b
    high = (near * 4096).floor() / 4096  # 12 bits: products with it are exact
    return near + ((a - high * b) - (near - high) * b) / b


def _inside(cell: Tensor, old: Tensor) -> Tensor:
    """Return the index of old pixels; those outside become the first or the last one."""
    return cell.clamp(min=0).minimum(old - 1).to(torch.int64)


def _sum(x: Tensor, taps: Taps) -> Tensor:
    """Return weighted sums (B, n, ...) of the rows of x (B, N, ..., ...)."""
    return (_taken(x, taps.places) * taps.weight[:, :, None, None]).sum(dim=2)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, n, T, ..., ...) of x (B, N, ..., ...) that an index (n, T) takes."""
    return x.index_select(1, index.flatten()).unflatten(1, (index.shape[0], index.shape[1]))


def _number(value: Tensor, least: int) -> int:
    """Return a number that the data decide, of which the tracer knows a lower limit."""
    found = value.to(torch.int64).item()
    torch._check(found >= least)  # type: ignore[no-untyped-call]
    return found  # type: ignore[return-value]  # the tracer's own kind of integer
