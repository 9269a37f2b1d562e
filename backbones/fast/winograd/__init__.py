"""3x3 convolutions on a CPU with Winograd's minimal filtering: a quarter or a fifth of the multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308). F(4x4, 3x3) transforms a tile of
6x6 pixels and the 3x3 weights to 36 numbers each. It multiplies these, sums over the channels, and transforms the sums
to the 4x4 result pixels in the middle of the tile. Over all tiles, this is 36 matrix products.

F(7x7, 3x3) covers a RoI of 14x14 cells exactly; tiles of 4x4 would compute 16x16 cells.

:mod:`.native` does this in C if there is a compiler; otherwise :mod:`.products` uses PyTorch's operations.
"""

import re
from functools import cache
from itertools import repeat
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.fast import cpu, switch
from backbones.fast.timing import best_seconds
from backbones.fast.winograd.tiles import PLAIN, filter_of, parts

_OPTIONS = ((1, 1), (1, 1), (1, 1), 1)
"""Stride, padding, dilation and groups."""
_LEAST = {torch.float32: (128, 36 * 48), torch.bfloat16: (256, 36 * 320)}
"""Fewest channels, and fewest transformed numbers of all tiles, for which the transforms cost less than they save.

For bfloat16 maps, the transformed numbers and products are float32, so the error is smaller than in the plain sum. A
CPU without AMX multiplies at most twice as fast in bfloat16 as in float32; a CPU with AMX up to sixteen times."""

_GAIN = 1.25
"""Smallest speed-up, measured on a large map, for which an unknown CPU uses this convolution."""


def should_use(x: Tensor, weight: Tensor, options: tuple[Any, ...], dtype: torch.dtype | None = None) -> bool:
    """Return whether this convolution is faster in Winograd's way, by its kind, its size and the CPU.

    Args:
        x: (B, C, H, W).
        weight: (O, C, k, k).
        options: stride, padding, dilation and groups.
        dtype: the dtype to which ``x`` will be cast; None: its own dtype.
    """
    return (
        not torch.compiler.is_compiling()
        and not switch.is_off("winograd")
        and type(x) is Tensor
        and x.device.type == "cpu"
        and weight.shape[2:] == (3, 3)
        and options == _OPTIONS
        and _is_large_enough(dtype or x.dtype, x, weight)
        and (switch.is_forced("winograd") or _is_faster())
    )


def _is_large_enough(dtype: torch.dtype, x: Tensor, weight: Tensor) -> bool:
    if dtype not in _LEAST or weight.dtype not in (dtype, torch.float32):
        return False
    channels, numbers = _LEAST[dtype]
    return (
        min(weight.shape[:2]) >= channels
        and len(x) * filter_of(x, len(weight)).numbers_of(x) >= numbers
        and (
            dtype == torch.float32
            or (not torch.cpu.get_capabilities().get("amx_bf16") and _way(*weight.shape[:2]).IN_BFLOAT16)
        )
    )


def _is_faster() -> bool:
    """Return whether the CPU is known to be faster, or is measured to be; deterministic runs do not measure."""
    return _is_known() or (not torch.are_deterministic_algorithms_enabled() and gain() >= _GAIN)


@cache
def _is_known() -> bool:
    """Return whether the CPU is one for which earlier measurements found a speed-up.

    Intel: 1.9 times (AVX-512) and 2.3 times (AVX2). AMD Zen 4: 0.9 to 2.2 times, complete training steps 1.01 to 1.22
    times. A measurement on a Zen 4 while other work runs, as in training, gives any value from 0.3 to 1.7. AMD Zen 3:
    2.1 times for 256 channels, forward and backward; a training step of RetinaNet 1.38 times, inference 1.0 times.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if cpu.vendor() == "Intel":
        return capability != "DEFAULT"
    family_25 = re.search(r"^cpu family\s*: 25$", cpu.description(), re.MULTILINE) is not None
    return cpu.vendor() == "AMD" and family_25 and capability != "DEFAULT"  # Zen 3, and Zen 4, which has AVX-512


@cache
def gain() -> float:
    """Measure the speed-up of this convolution over PyTorch's on this CPU, which takes a tenth of a second.

    It depends on two libraries: oneDNN for the convolution, and MKL or another one for the matrix products.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        x, weight = torch.ones(1, 256, 64, 64, **PLAIN), torch.ones(256, 256, 3, 3, **PLAIN)
        x, weight = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
        plain, fast = best_seconds([lambda: F.conv2d(x, weight, padding=1), lambda: convolution(x, weight)], rounds=3)
    return plain / fast


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Return the convolution with stride 1 and padding 1; autograd does not record it.

    Args:
        x: (B, C, H, W) float32, or bfloat16 if :mod:`.native` is available.
        weight: (O, C, 3, 3); the function casts it to the dtype of ``x``.
        bias: (O,), or None.
        relu: whether to apply a ReLU.

    Returns:
        (B, O, H, W) in the dtype of ``x``, channels last.
    """
    y, whole, weight = _empty(x, len(weight)), _whole(weight), weight.to(x.dtype)
    first = None if bias is None else bias[:whole]
    _correlate(x, weight[:whole], y[:, :whole], first, relu)
    if whole < len(weight):
        rest = F.conv2d(x, weight[whole:], None if bias is None else bias[whole:].to(x.dtype), padding=1)
        y[:, whole:] = rest.relu_() if relu else rest
    return y


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of ``x`` (B, C, H, W): the convolution of ``grad`` (B, O, H, W) with the rotated weight."""
    to_x, whole, weight = _empty(grad, weight.shape[1]), _whole(weight), weight.to(grad.dtype)
    grad = _channels_last(grad)
    _correlate(grad[:, :whole], weight[:whole], to_x, rotated=True)
    if whole < len(weight):
        to_x += _gradients(grad[:, whole:], to_x, weight[whole:], (True, False, False))[0]
    return to_x


def _whole(weight: Tensor) -> int:
    """Return how many output channels of a weight (O, C, 3, 3) to compute in this way: in C, only multiples of 32.

    A plain convolution computes the rest. With 80 classes, a RetinaNet has 720 output channels: 704 and 16.
    """
    from backbones.fast.winograd import native

    out, channels = weight.shape[:2]
    return out // native.MULTIPLE * native.MULTIPLE or out if native.usable(channels) else out


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]) -> Any:
    """Return PyTorch's gradients of input, weight and bias of a convolution of this kind."""
    ones = [1, 1]
    return torch.ops.aten.convolution_backward(grad, x, weight, None, ones, ones, ones, False, [0, 0], 1, wanted)


def _empty(x: Tensor, channels: int) -> Tensor:
    # A tensor of its own, not a view, so that later in-place operations can overwrite it.
    options = PLAIN | {"dtype": x.dtype}
    return torch.empty((len(x), channels, *x.shape[2:]), memory_format=torch.channels_last, **options)


def _correlate(
    x: Tensor, weight: Tensor, y: Tensor, bias: Tensor | None = None, relu: bool = False, rotated: bool = False
) -> None:
    way, x = _way(*weight.shape[:2]), _channels_last(x)
    axis = int(rotated)  # axis of the weight with the channels of the result
    out = weight.shape[axis]
    filter = filter_of(x, out)
    step = parts(x, out, filter, way.MULTIPLE)
    biases = repeat(None) if bias is None else bias.split(step)
    for part, shift, target in zip(weight.split(step, axis), biases, y.split(step, dim=1), strict=False):
        work = way.Work(x, filter, part.shape[axis])
        kernel = work.kernel(part, rotated)
        for piece in work.pieces:
            work.write(target, kernel, shift, relu, piece)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the weight (O, C, 3, 3) in float32, from ``grad`` (B, O, H, W) and ``x`` (B, C, H, W)."""
    to_weight = torch.empty((grad.shape[1], x.shape[1], 3, 3), memory_format=torch.channels_last, **PLAIN)
    out, grad, x = _whole(to_weight), _channels_last(grad), _channels_last(x)
    if out < len(to_weight):
        to_weight[out:] = _gradients(grad[:, out:], x, to_weight[out:].to(x.dtype), (False, True, False))[1]
    way, filter = _way(out, x.shape[1]), filter_of(x, out, trainable=True)
    step = parts(x, out, filter, way.MULTIPLE)
    for part, target in zip(grad[:, :out].split(step, dim=1), to_weight[:out].split(step), strict=True):
        work = way.Work(x, filter, len(target), trainable=True)
        for piece in work.pieces:
            work.accumulate(part, piece)
        work.write_gradient(target)
    return to_weight


def _way(*channels: int) -> ModuleType:
    # Imported when the first such convolution runs: ``native`` needs a compiler, and a machine uses one of the two.
    from backbones.fast.winograd import native, products

    return native if native.usable(*channels) else products


def _channels_last(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)
