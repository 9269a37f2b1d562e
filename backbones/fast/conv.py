"""A convolution whose backward pass takes little memory, and is fast in channels-last memory on any processor."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fast import kernels, winograd
from backbones.fast.autocast import precision, to_autocast

_LARGE = 4000
"""Pixels of the result from which the detour pays."""

How = tuple[Any, ...]
"""Stride, padding, dilation, groups."""


def how_of(conv: nn.Conv2d) -> How:
    """Stride, padding, dilation and groups of a convolution."""
    return conv.stride, conv.padding, conv.dilation, conv.groups


def pads_zeros(conv: nn.Conv2d) -> bool:
    """Whether :func:`how_of` says all of its padding."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module may be computed from its weights instead of being called.

    Not a subclass, whose ``forward`` may do something else, and not one with hooks: pruning, adapters, probes.

    Args:
        kinds: what it must be; :class:`Conv2d` or PyTorch's if none are given.
    """
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return type(module) in (kinds or (nn.Conv2d, Conv2d)) and not any(hooks)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, of which a processor computes large maps with fewer multiplications and gradients in less memory.

    See :mod:`backbones.fast.winograd` and :func:`parameter_gradients`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As of ``nn.Conv2d``."""
        if not self._pays(x):
            return super().forward(x)
        y: Tensor = _Convolution.apply(to_autocast(x), self.weight, self.bias, how_of(self))
        return y

    def _pays(self, x: Tensor) -> bool:
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        return (
            (learns or not x.requires_grad)
            and not torch.compiler.is_compiling()
            and pads_zeros(self)
            and x.is_contiguous(memory_format=torch.channels_last)
            and (
                (self.bias is not None and kernels.usable(x))
                or (learns and is_large(x, self.stride))
                or winograd.pays(x, self.weight, how_of(self), precision(x))
            )
        )


class _Convolution(torch.autograd.Function):
    """In the precision of its input; the weight is cast again for the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: How) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return convolution(x, weight, bias, how)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *gradients(grad, x, weight, ctx.how, ctx.needs_input_grad[:3]), None


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, how: How, carried: Tensor | None = None, relu: bool = False
) -> Tensor:
    """The convolution in the precision of its input, and what follows it: ``relu(convolution + carried)``."""
    if not torch.is_grad_enabled():
        if winograd.pays(x, weight, how):
            return sum_relu(winograd.convolution(x, weight, bias), carried, relu)
        if kernels.usable(x) and not (bias is carried is None):
            return _finished(F.conv2d(x, weight.to(x.dtype), None, *how), bias, carried, relu)
    return sum_relu(F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *how), carried, relu)


def _finished(y: Tensor, bias: Tensor | None, carried: Tensor | None, relu: bool) -> Tensor:
    from backbones.fast.kernels import epilogue  # where there is no GPU, there need be no Triton

    if epilogue.fits(y, carried):
        return epilogue.finish(y, bias, carried, relu)
    return sum_relu(y if bias is None else y.add_(bias.to(y.dtype)[:, None, None]), carried, relu)


def sum_relu(y: Tensor, carried: Tensor | None, relu: bool) -> Tensor:
    """The steps after a convolution or its norm, one by one; ``y`` is overwritten."""
    if carried is not None:
        y = y.add_(carried)
    return y.relu_() if relu else y


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, how: How, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that are wanted; the latter two in the weight's precision.

    A processor computes them one by one, in less memory, others all at once.
    """
    wants_x, wants_weight, wants_bias = wanted
    to_x = to_weight = to_bias = None
    if x.device.type == "cpu":
        if wants_weight or wants_bias:
            to_weight, to_bias = parameter_gradients(grad, x, weight, how, wants_bias)
        if wants_x:
            to_x = input_gradient(grad, x, weight, how)
    elif any(wanted):
        to_x, to_weight, to_bias = _backward(grad, x, weight.to(x.dtype), how, tuple(wanted))
        to_weight, to_bias = (None if one is None else one.to(weight.dtype) for one in (to_weight, to_bias))
    return to_x, to_weight, to_bias


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, how: How) -> Tensor:
    """The gradient of ``x``, of which only the shape is asked for."""
    if winograd.pays(grad, weight, how):
        return winograd.input_gradient(grad, weight)
    to_x: Tensor = _backward(grad, x, weight.to(grad.dtype), how, (True, False, False))[0]
    return to_x


def parameter_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, how: How, biased: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of weight and bias in the weight's precision; on a processor, of large maps in little memory.

    In bfloat16 oneDNN copies both maps for the weight gradient: for two images of 800 pixels at stride 4 it takes 146
    MB for a 3x3 convolution and 105 MB for a 1x1. The first is computed image by image here, the second as the matrix
    product that it is; both are as fast. Without AVX-512 oneDNN takes up to four times as long for a 3x3 convolution if
    the maps lie channels last (256 channels, 200 x 280: 6.7 s instead of 1.6 s on two cores of a Zen 3), so it is given
    them channels first there; the result itself and the gradient of the input are as fast or faster channels last.
    """
    stride, padding, _, groups = how
    if winograd.pays(x, weight, how):
        to_bias = grad.sum(dim=(0, 2, 3), dtype=weight.dtype) if biased else None
        return winograd.weight_gradient(grad, x).to(weight.dtype), to_bias
    if not is_large(x, stride):
        _, to_weight, to_bias = _backward(grad, x, _like(weight, x), how, (False, True, biased))
        return to_weight.to(weight.dtype), to_bias.to(weight.dtype) if biased else None
    if weight.shape[2:] == (1, 1) and set(stride) == {1} and set(padding) == {0} and groups == 1:
        rows, inputs = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (grad, x))
        to_weight = (rows.t() @ inputs).to(weight.dtype)[..., None, None]
        return to_weight, rows.sum(dim=0).to(weight.dtype) if biased else None
    slow = x.dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    format = torch.contiguous_format if slow else torch.channels_last
    kernel = _like(weight, x, format)
    to_weight = torch.zeros_like(kernel, dtype=weight.dtype)
    to_bias = weight.new_zeros(len(weight)) if biased else None
    for images in zip(grad.split(1), x.split(1), strict=True):
        one, image = (maps.contiguous(memory_format=format) for maps in images)
        _, more, bias = _backward(one, image, kernel, how, (False, True, biased))
        to_weight += more
        if to_bias is not None:
            to_bias += bias
    return to_weight.to(memory_format=torch.channels_last), to_bias


def is_large(x: Tensor, stride: tuple[int, ...] = (1, 1)) -> bool:
    """Whether a processor saves memory if a convolution's gradients are computed image by image."""
    return x.device.type == "cpu" and x.shape[-2] * x.shape[-1] >= _LARGE * stride[0] * stride[1]


def _like(weight: Tensor, x: Tensor, format: torch.memory_format = torch.preserve_format) -> Tensor:
    """What says shape, precision and layout of the weight to the kernel of its gradient, which asks for no values."""
    return torch.empty_like(weight, dtype=x.dtype, memory_format=format)


def _backward(grad: Tensor, x: Tensor, weight: Tensor, how: How, wanted: tuple[bool, ...]) -> Any:
    stride, padding, dilation, groups = how
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], stride, padding, dilation, False, (0, 0), groups, wanted
    )
