"""A convolution with a backward pass that needs little memory and is fast in channels-last layout on any CPU."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fast import kernels, winograd
from backbones.fast.autocast import precision, to_autocast

_LARGE = 4000
"""Pixels of the result from which computing gradients image by image saves memory."""

ConvOptions = tuple[Any, ...]
"""Stride, padding, dilation and groups of a convolution."""


def options_of(conv: nn.Conv2d) -> ConvOptions:
    """Return stride, padding, dilation and groups of a convolution."""
    return conv.stride, conv.padding, conv.dilation, conv.groups


def pads_zeros(conv: nn.Conv2d) -> bool:
    """Return whether a convolution pads with zeros by fixed numbers, as :data:`ConvOptions` assumes."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return whether the caller may compute a module from its weights instead of calling it.

    This is False for a subclass, whose ``forward`` may differ, and for a module with hooks (pruning, adapters, probes).

    Args:
        module: the module.
        kinds: allowed classes; default: :class:`Conv2d` and ``nn.Conv2d``.
    """
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return type(module) in (kinds or (nn.Conv2d, Conv2d)) and not any(hooks)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that needs fewer multiplications for large maps, and less memory for gradients, on a CPU.

    See :mod:`backbones.fast.winograd` and :func:`parameter_gradients`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the same result as ``nn.Conv2d``."""
        if not self._should_detour(x):
            return super().forward(x)
        y: Tensor = _Convolution.apply(to_autocast(x), self.weight, self.bias, options_of(self))
        return y

    def _should_detour(self, x: Tensor) -> bool:
        trainable = torch.is_grad_enabled() and self.weight.requires_grad
        return (
            (trainable or not x.requires_grad)
            and not torch.compiler.is_compiling()
            and pads_zeros(self)
            and x.is_contiguous(memory_format=torch.channels_last)
            and (
                (self.bias is not None and kernels.usable(x))
                or (trainable and is_large(x, self.stride))
                or winograd.should_use(x, self.weight, options_of(self), precision(x))
            )
        )


class _Convolution(torch.autograd.Function):
    """Convolution in the precision of its input; the backward pass casts the weight again, to save memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: ConvOptions) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = options
        return convolution(x, weight, bias, options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *gradients(grad, x, weight, ctx.options, ctx.needs_input_grad[:3]), None


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    options: ConvOptions,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return ``relu(convolution + residual)`` in the precision of the input."""
    if not torch.is_grad_enabled():
        if winograd.should_use(x, weight, options):
            return add_relu(winograd.convolution(x, weight, bias), residual, relu)
        if kernels.usable(x) and not (bias is residual is None):
            return _finished(F.conv2d(x, weight.to(x.dtype), None, *options), bias, residual, relu)
    return add_relu(
        F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *options), residual, relu
    )


def _finished(y: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    from backbones.fast.kernels import epilogue  # here, as machines without a GPU may lack Triton

    if epilogue.fits(y, residual):
        return epilogue.finish(y, bias, residual, relu)
    return add_relu(y if bias is None else y.add_(bias.to(y.dtype)[:, None, None]), residual, relu)


def add_relu(y: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """Add the residual and apply ReLU, in place in ``y``."""
    if residual is not None:
        y = y.add_(residual)
    return y.relu_() if relu else y


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, options: ConvOptions, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias; weight and bias in the weight's precision, None if not wanted.

    A CPU computes them one after the other, which needs less memory; other devices compute them in one operation.
    """
    wants_x, wants_weight, wants_bias = wanted
    to_x = to_weight = to_bias = None
    if x.device.type == "cpu":
        if wants_weight or wants_bias:
            to_weight, to_bias = parameter_gradients(grad, x, weight, options, wants_bias)
        if wants_x:
            to_x = input_gradient(grad, x, weight, options)
    elif any(wanted):
        to_x, to_weight, to_bias = _backward(grad, x, weight.to(x.dtype), options, tuple(wanted))
        to_weight, to_bias = (None if one is None else one.to(weight.dtype) for one in (to_weight, to_bias))
    return to_x, to_weight, to_bias


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, options: ConvOptions) -> Tensor:
    """Return the gradient of ``x``; the function uses only the shape of ``x``."""
    if winograd.should_use(grad, weight, options):
        return winograd.input_gradient(grad, weight)
    to_x: Tensor = _backward(grad, x, weight.to(grad.dtype), options, (True, False, False))[0]
    return to_x


def parameter_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, options: ConvOptions, biased: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of weight and bias in the weight's precision; on a CPU, large maps need little memory.

    In bfloat16, oneDNN copies both maps for the weight gradient. For two images of 800 pixels at stride 4, a 3x3
    convolution needs 146 MB and a 1x1 convolution 105 MB. This function computes the 3x3 one image by image, and the
    1x1 one as a matrix product; both are as fast as oneDNN.

    Without AVX-512, oneDNN is up to four times slower for this gradient of a 3x3 convolution in channels-last layout.
    An example: 256 channels of 200 x 280 cells take 6.7 s instead of 1.6 s on two cores of a Zen 3. So this function
    passes channels-first maps there. For the forward pass and the input gradient, channels last is as fast or faster.
    """
    stride, padding, _, groups = options
    if winograd.should_use(x, weight, options):
        to_bias = grad.sum(dim=(0, 2, 3), dtype=weight.dtype) if biased else None
        return winograd.weight_gradient(grad, x).to(weight.dtype), to_bias
    if not is_large(x, stride):
        _, to_weight, to_bias = _backward(grad, x, _empty_like(weight, x), options, (False, True, biased))
        return to_weight.to(weight.dtype), to_bias.to(weight.dtype) if biased else None
    if weight.shape[2:] == (1, 1) and set(stride) == {1} and set(padding) == {0} and groups == 1:
        rows, inputs = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (grad, x))
        to_weight = (rows.t() @ inputs).to(weight.dtype)[..., None, None]
        return to_weight, rows.sum(dim=0).to(weight.dtype) if biased else None
    slow = x.dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    format = torch.contiguous_format if slow else torch.channels_last
    kernel = _empty_like(weight, x, format)
    to_weight = torch.zeros_like(kernel, dtype=weight.dtype)
    to_bias = weight.new_zeros(len(weight)) if biased else None
    for images in zip(grad.split(1), x.split(1), strict=True):
        one, image = (maps.contiguous(memory_format=format) for maps in images)
        _, more, bias = _backward(one, image, kernel, options, (False, True, biased))
        to_weight += more
        if to_bias is not None:
            to_bias += bias
    return to_weight.to(memory_format=torch.channels_last), to_bias


def is_large(x: Tensor, stride: tuple[int, ...] = (1, 1)) -> bool:
    """Return whether ``x`` is on a CPU and so large that gradients image by image save memory."""
    return x.device.type == "cpu" and x.shape[-2] * x.shape[-1] >= _LARGE * stride[0] * stride[1]


def _empty_like(weight: Tensor, x: Tensor, format: torch.memory_format = torch.preserve_format) -> Tensor:
    """Return an empty weight; the kernel of the weight gradient reads its shape, dtype and layout, not its values."""
    return torch.empty_like(weight, dtype=x.dtype, memory_format=format)


def _backward(grad: Tensor, x: Tensor, weight: Tensor, options: ConvOptions, wanted: tuple[bool, ...]) -> Any:
    stride, padding, dilation, groups = options
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], stride, padding, dilation, False, (0, 0), groups, wanted
    )
