"""RoIAlign on a GPU: read the samples of each bin directly, without writing a list of them to memory.

R RoIs   r bins per side   C channels.
"""

import triton
import triton.language as tl
from torch import Tensor

from backbones.fast.kernels import launches


@launches
def pool(rows: Tensor, rois: Tensor, places: Tensor, bins: int, samples: int) -> Tensor:
    """Return the mean of the bilinear samples of each bin.

    Args:
        rows: (cells, C).
        rois: (R, 4) float32: x, y, width, height in cells of the RoI's level.
        places: (R, 3) int64: height and width of this level, and row of the image's first cell in the table.

    Returns:
        (R * r * r, C) in the dtype of the rows.
    """
    pooled = rows.new_empty(len(rois) * bins**2, rows.shape[1])
    if pooled.numel():
        _pool[(len(pooled),)](
            rows.contiguous(),
            rois.contiguous(),
            places.contiguous(),
            pooled,
            rows.shape[1],
            **_options(rows, bins, samples),
        )
    return pooled


@launches
def add_gradient(total: Tensor, grad: Tensor, rois: Tensor, places: Tensor, bins: int, samples: int) -> None:
    """Add the gradient of the rows to ``total`` (cells, C) float32, in an undefined order.

    Args:
        grad: (R * r * r, C), gradient of the result of :func:`pool`.
    """
    if grad.numel():
        _add_gradient[(len(grad),)](
            total,
            rois.contiguous(),
            places.contiguous(),
            grad.contiguous(),
            grad.shape[1],
            **_options(grad, bins, samples),
        )


def _options(rows: Tensor, bins: int, samples: int) -> dict[str, int]:
    return {"BINS": bins, "SAMPLES": samples, "CHANNELS": triton.next_power_of_2(rows.shape[1]), "num_warps": 1}


@triton.jit
def _along(corner, side, extent, place, sample, BINS: tl.constexpr, SAMPLES: tl.constexpr):
    """Return the two cells around a sample along an axis, and their weights."""
    bin_side = side / BINS
    point = corner + place * bin_side + (sample + 0.5) * bin_side / SAMPLES
    last = (extent - 1).to(tl.float32)
    inside = (point >= -1.0) & (point <= extent.to(tl.float32))  # false for NaN
    point = tl.where(inside, tl.minimum(tl.maximum(point, 0.0), last), 0.0)
    low = tl.floor(point)
    weight = point - low
    high = tl.minimum(low + 1.0, last)
    mean_weight = tl.where(inside, 1.0 / SAMPLES, 0.0)
    return low.to(tl.int64), high.to(tl.int64), (1.0 - weight) * mean_weight, weight * mean_weight


@triton.jit
def _bin(rois, places, BINS: tl.constexpr):
    number = tl.program_id(0)
    roi, row, column = number // (BINS * BINS), (number // BINS) % BINS, number % BINS
    box, place = rois + roi * 4, places + roi * 3
    x, y, width, height = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    return x, y, width, height, row, column, tl.load(place), tl.load(place + 1), tl.load(place + 2)


@triton.jit
def _corners(table, bin, channels, channel, j, i, BINS: tl.constexpr, SAMPLES: tl.constexpr):
    """Return pointers to the four cells around a sample of a bin (:func:`_bin`), and their weights."""
    x, y, width, height, row, column, down, across, origin = bin
    y_low, y_high, y_low_weight, y_high_weight = _along(y, height, down, row, j, BINS, SAMPLES)
    x_low, x_high, x_low_weight, x_high_weight = _along(x, width, across, column, i, BINS, SAMPLES)
    upper, lower = table + (origin + y_low * across) * channels, table + (origin + y_high * across) * channels
    left, right = x_low * channels + channel, x_high * channels + channel
    cells = upper + left, upper + right, lower + left, lower + right
    low, high = y_low_weight, y_high_weight
    return cells, (low * x_low_weight, low * x_high_weight, high * x_low_weight, high * x_high_weight)


@triton.jit
def _pool(rows, rois, places, pooled, channels, BINS: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr):
    bin = _bin(rois, places, BINS)
    channel = tl.arange(0, CHANNELS)
    real = channel < channels
    total = tl.zeros([CHANNELS], tl.float32)
    for j in tl.static_range(SAMPLES):
        for i in tl.static_range(SAMPLES):
            cells, weights = _corners(rows, bin, channels, channel, j, i, BINS, SAMPLES)
            for k in tl.static_range(4):
                total += weights[k] * tl.load(cells[k], real, 0.0).to(tl.float32)
    target = pooled + tl.program_id(0).to(tl.int64) * channels + channel
    tl.store(target, total.to(pooled.dtype.element_ty), real)


@triton.jit
def _add_gradient(
    total, rois, places, grad, channels, BINS: tl.constexpr, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr
):
    bin = _bin(rois, places, BINS)
    channel = tl.arange(0, CHANNELS)
    real = channel < channels
    value = tl.load(grad + tl.program_id(0).to(tl.int64) * channels + channel, real, 0.0).to(tl.float32)
    for j in tl.static_range(SAMPLES):
        for i in tl.static_range(SAMPLES):
            cells, weights = _corners(total, bin, channels, channel, j, i, BINS, SAMPLES)
            for k in tl.static_range(4):
                tl.atomic_add(cells[k], weights[k] * value, real, sem="relaxed")
