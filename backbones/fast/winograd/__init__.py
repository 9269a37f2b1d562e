"""3x3 convolutions by minimal filtering: a quarter or a fifth of the multiplications, in float32 on a processor.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308). F(4x4, 3x3): a tile of 6x6
pixels and the 3x3 weights are mapped to 36 numbers each, the products of which, summed over the channels, are mapped to
the 4x4 pixels of the result in the middle of the tile. Over all tiles these are 36 matrix products.

RoIs of 14x14 cells are covered by F(7x7, 3x3) exactly, where tiles of 4x4 would compute 16x16.

:mod:`.native` does this in C where there is a compiler, :mod:`.products` with PyTorch's operations elsewhere.
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

_HOW = ((1, 1), (1, 1), (1, 1), 1)
"""Stride, padding, dilation and groups."""
_LEAST = {torch.float32: (128, 36 * 48), torch.bfloat16: (256, 36 * 320)}
"""With fewer channels, or numbers that all tiles are mapped to, the maps take longer than what they save.

Numbers and products are in float32 in bfloat16, too, so that less is lost than in the plain sum. A processor without
AMX multiplies at most twice as fast in bfloat16, one with it up to sixteen times."""

_GAIN = 1.25
"""How many times as fast it must be on a large map where it is measured."""


def pays(x: Tensor, weight: Tensor, how: tuple[Any, ...], dtype: torch.dtype | None = None) -> bool:
    """Whether a convolution is of the kind and size that is faster this way, on this processor.

    Args:
        x: (B, C, H, W).
        weight: (O, C, k, k).
        how: stride, padding, dilation and groups.
        dtype: the precision that ``x`` will have; None: that it has.
    """
    return (
        not torch.compiler.is_compiling()
        and not switch.is_off("winograd")
        and type(x) is Tensor
        and x.device.type == "cpu"
        and weight.shape[2:] == (3, 3)
        and how == _HOW
        and _pays_in(dtype or x.dtype, x, weight)
        and (switch.is_forced("winograd") or _is_faster())
    )


def _pays_in(dtype: torch.dtype, x: Tensor, weight: Tensor) -> bool:
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
    """Where it was found to be, and where a processor that is not known says so, unless every bit counts."""
    return _is_known() or (not torch.are_deterministic_algorithms_enabled() and gain() >= _GAIN)


@cache
def _is_known() -> bool:
    """Intel's: 1.9 (AVX-512) and 2.3 times as fast (AVX2). AMD's Zen 4: 0.9 to 2.2, whole steps 1.01 to 1.22.

    Asked beside other work, which training is full of, the Zen 4 answers anything from 0.3 to 1.7.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if cpu.vendor() == "Intel":
        return capability != "DEFAULT"
    # Zen 3 and 4, which has AVX-512
    family_25 = re.search(r"^cpu family\s*: 25$", cpu.description(), re.MULTILINE) is not None
    return cpu.vendor() == "AMD" and family_25 and capability.startswith("AVX512")


@cache
def gain() -> float:
    """How many times as fast as PyTorch's this convolution is on this processor; found in a tenth of a second.

    That depends on two libraries: oneDNN's convolution, and the matrix product of MKL or another.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        x, weight = torch.ones(1, 256, 64, 64, **PLAIN), torch.ones(256, 256, 3, 3, **PLAIN)
        x, weight = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
        plain, fast = best_seconds([lambda: F.conv2d(x, weight, padding=1), lambda: convolution(x, weight)], rounds=3)
    return plain / fast


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """The convolution with stride and padding 1; autograd does not see it.

    Args:
        x: (B, C, H, W) float32, or bfloat16 where :mod:`.native` can be had.
        weight: (O, C, 3, 3), rounded to the precision of ``x``.
        bias: (O,), or None.
        relu: the result is clipped at 0.

    Returns:
        (B, O, H, W) in the precision of ``x``, channels last.
    """
    return _correlation(x, weight, bias, relu)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of ``x`` (B, C, H, W) from that of the result (B, O, H, W): a convolution with the weight turned."""
    return _correlation(grad, weight, turned=True)


def _correlation(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False, turned: bool = False
) -> Tensor:
    way, x, weight = _way(*weight.shape[:2]), _channels_last(x), weight.to(x.dtype)
    axis = int(turned)  # of the weight, along which the result has its channels
    out = weight.shape[axis]
    # No view of anything, so that it may be overwritten.
    y = torch.empty((len(x), out, *x.shape[2:]), memory_format=torch.channels_last, **PLAIN | {"dtype": x.dtype})
    filter = filter_of(x, out)
    step = parts(x, out, filter, way.MULTIPLE)
    biases = repeat(None) if bias is None else bias.split(step)
    for part, shift, target in zip(weight.split(step, axis), biases, y.split(step, dim=1), strict=False):
        work = way.Work(x, filter, part.shape[axis])
        kernel = work.kernel(part, turned)
        for piece in work.pieces:
            work.write(target, kernel, shift, relu, piece)
    return y


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight (O, C, 3, 3), float32, from that of the result (B, O, H, W) and ``x`` (B, C, H, W)."""
    out, channels = grad.shape[1], x.shape[1]
    way, grad, x = _way(out, channels), _channels_last(grad), _channels_last(x)
    to_weight = torch.empty((out, channels, 3, 3), memory_format=torch.channels_last, **PLAIN)
    filter = filter_of(x, out, learns=True)
    step = parts(x, out, filter, way.MULTIPLE)
    for part, target in zip(grad.split(step, dim=1), to_weight.split(step), strict=True):
        work = way.Work(x, filter, len(target), learns=True)
        for piece in work.pieces:
            work.learn(part, piece)
        work.taps(target)
    return to_weight


def _way(*channels: int) -> ModuleType:
    # Imported where such a convolution comes up: one way needs a compiler, and a machine takes one of the two.
    from backbones.fast.winograd import native, products

    return native if native.usable(*channels) else products


def _channels_last(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)
