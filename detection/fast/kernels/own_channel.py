"""The backward pass through the mask head's last two layers on a GPU; see :mod:`detection.models.mask_head`.

R RoIs   r cells per side   C channels.
"""

import triton
import triton.language as tl
from torch import Tensor

from backbones.fast.kernels import launches


@launches
def gradient(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Overwrite the result of a ReLU with the gradient of its input.

    Args:
        x: (R, 4 * C, r, r), channels last; the four pixels of each cell.
        weight: (R, C), weights of the channel of each RoI's class.
        grad: (R, 2 * r, 2 * r), gradient of this channel.
    """
    rois, channels = weight.shape
    side = x.shape[-1]
    if x.numel():
        _gradient[(rois * side * side,)](
            x, weight.contiguous(), grad.contiguous(), channels,
            SIDE=side, CHANNELS=triton.next_power_of_2(channels), num_warps=1,
        )  # fmt: skip
    return x


@triton.jit
def _gradient(x, weight, grad, channels, SIDE: tl.constexpr, CHANNELS: tl.constexpr):
    cell = tl.program_id(0)
    roi, row, column = cell // (SIDE * SIDE), (cell // SIDE) % SIDE, cell % SIDE
    channel = tl.arange(0, CHANNELS)
    real = channel < channels
    own = tl.load(weight + roi * channels + channel, real, 0.0).to(tl.float32)
    pixel = grad + ((roi.to(tl.int64) * 2 * SIDE + 2 * row) * 2 * SIDE + 2 * column)
    for i in tl.static_range(4):
        place = x + (cell.to(tl.int64) * 4 + i) * channels + channel
        slope = tl.load(pixel + (i // 2) * 2 * SIDE + i % 2).to(tl.float32)
        value = tl.where(tl.load(place, real, 0.0) > 0, own * slope, 0.0)
        tl.store(place, value.to(x.dtype.element_ty), real)
