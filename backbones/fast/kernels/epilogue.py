"""What follows a convolution on a GPU, in one pass over its result: a bias, a sum and a ReLU.

PyTorch's own convolution adds the bias in a pass of its own, at half the speed of the memory, and sum and ReLU take one
each: of a step of a ResNet-50-FPN in bfloat16 these are a quarter.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from backbones.fast.kernels import launches

_ROWS, _COLUMNS = 32, 128


def fits(y: Tensor, carried: Tensor | None = None) -> bool:
    """Whether both lie channels last, without gaps."""
    return all(x is None or x.is_contiguous(memory_format=torch.channels_last) for x in (y, carried))


@launches
def finish(y: Tensor, bias: Tensor | None, carried: Tensor | None = None, relu: bool = False) -> Tensor:
    """``relu(y + bias + carried)`` in place, rounded once.

    Args:
        y: (B, C, H, W), channels last.
        bias: (C,), or None.
        carried: as ``y``, or None.
    """
    channels = y.shape[1]
    cells = y.numel() // max(1, channels)
    if y.numel():
        columns = min(_COLUMNS, triton.next_power_of_2(channels))
        _finish[(triton.cdiv(cells, _ROWS), triton.cdiv(channels, columns))](
            y, y if bias is None else bias, y if carried is None else carried, cells, channels,
            BIAS=bias is not None, CARRIED=carried is not None, RELU=relu, ROWS=_ROWS, COLUMNS=columns, num_warps=4,
        )  # fmt: skip
    return y


@triton.jit(do_not_specialize=["cells"])
def _finish(
    y, bias, carried, cells, channels,
    BIAS: tl.constexpr, CARRIED: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = (cell < cells)[:, None] & (channel < channels)[None, :]
    place = cell[:, None] * channels + channel[None, :]
    value = tl.load(y + place, real, 0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)[None, :]
    if CARRIED:
        value += tl.load(carried + place, real, 0.0).to(tl.float32)
    if RELU:
        value = tl.where(value < 0, 0.0, value)  # a NaN stays one
    tl.store(y + place, value.to(y.dtype.element_ty), real)
