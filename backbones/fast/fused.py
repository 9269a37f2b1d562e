"""A convolution and what follows it, a fixed norm, a sum and a ReLU: inside it on a CPU, in one pass more on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from backbones.fast import kernels, winograd
from backbones.fast.autocast import to_autocast
from backbones.fast.conv import How, convolution, gradients, how_of, is_plain, pads_zeros, sum_relu
from backbones.norms import FrozenBatchNorm2d, affine_map

_PLAIN = ((1, 1), (0, 0), (1, 1), 1)
"""Stride, padding, dilation and groups of most 1x1 convolutions."""
_OWN_MAP = "affine_map_of_this_step"
"""Where a frozen norm holds its affine map inside :func:`maps_at_once`."""


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module, relu: bool = False, carried: Tensor | None = None) -> Tensor:
    """``relu(norm(conv(x)) + carried)``; few operations where the norm is a fixed affine map.

    The norm's scale goes into the kernel (``w * scale``) and its shift becomes the bias: the same function, and the
    gradient still reaches ``w``. Rounding differs, errors do not: the last features of a ResNet-50 in float32 are 1e-4
    of their standard deviation from those in float64 either way.

    Args:
        x: (B, C, H, W).
        conv, norm: one after the other.
        relu: whether it follows.
        carried: (B, O, H', W') around the convolution, or None.
    """
    if type(norm) is nn.Identity and is_plain(conv):  # folded once and for all
        return conv_sum_relu(x, conv, conv.weight, conv.bias, None, carried, relu)
    if _folds(conv, norm) and not (torch.is_grad_enabled() and _learns(norm)):
        scale, shift = _scale_and_shift(norm)
        return conv_sum_relu(x, conv, conv.weight, shift, scale, carried, relu)
    return sum_relu(norm(conv(x)), carried, relu)


def fold_norm(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold a norm into its convolution for good, if it is fixed; its place is then taken by the identity."""
    conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
    if not _folds(conv, norm):
        return
    scale, shift = _scale_and_shift(norm)
    kernel = conv.weight * scale[:, None, None, None]
    conv.weight, conv.bias = nn.Parameter(kernel.detach(), False), nn.Parameter(shift.detach(), False)
    setattr(owner, norm_name, nn.Identity())


def _folds(conv: nn.Conv2d, norm: nn.Module) -> bool:
    fixed = type(norm) is FrozenBatchNorm2d or not norm.training
    plain = is_plain(conv) and is_plain(norm, FrozenBatchNorm2d, nn.BatchNorm2d)
    return plain and fixed and conv.bias is None


def _learns(norm: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in norm.parameters())


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, FrozenBatchNorm2d | nn.BatchNorm2d)
    known: tuple[Tensor, Tensor] | None = norm.__dict__.get(_OWN_MAP)
    return affine_map(norm) if known is None else known


@contextmanager
def maps_at_once(network: nn.Module) -> Iterator[None]:
    """Compute the affine maps of all frozen norms in five batched operations; inside, each norm holds its own.

    Five operations for each of 53 norms would be five launches each on a GPU. It changes nothing on a CPU.
    """
    norms = [module for module in network.modules() if type(module) is FrozenBatchNorm2d]
    if not norms or norms[0].weight.device.type == "cpu":
        yield
        return
    with torch.no_grad():
        scales = torch._foreach_add([norm.running_var for norm in norms], [norm.eps for norm in norms])
        torch._foreach_rsqrt_(scales)
        torch._foreach_mul_(scales, [norm.weight for norm in norms])
        shifts = torch._foreach_mul([norm.running_mean for norm in norms], scales)
        shifts = torch._foreach_sub([norm.bias for norm in norms], shifts)
    for norm, scale, shift in zip(norms, scales, shifts, strict=True):
        norm.__dict__[_OWN_MAP] = scale, shift
    try:
        yield
    finally:
        for norm in norms:
            del norm.__dict__[_OWN_MAP]


def conv_relu(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv(x).relu()``, to the last bit."""
    if not is_plain(conv):
        return conv(x).relu()  # type: ignore[no-any-return]
    return conv_sum_relu(x, conv, conv.weight, conv.bias)


def conv_sum_relu(
    x: Tensor,
    conv: nn.Conv2d | None,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None = None,
    carried: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """``relu(convolution + carried)``; under autocast in its precision.

    On a processor oneDNN adds and clips while it holds the result, which saves reading and writing it again: at 800
    pixels a quarter of all that an inference in bfloat16 does besides multiplying. On a GPU one kernel adds the bias,
    too (:mod:`backbones.fast.kernels.epilogue`). The sum is then rounded once, not twice.

    Args:
        x: (B, C, H, W).
        conv: says stride, padding, dilation and groups; None: 1, 0, 1 and 1.
        weight: (O, C / groups, k, k).
        bias: (O,), or None.
        scale: (O,), a factor of the weight without gradient, or None.
        carried: (B, O, H', W'), or None.
        relu: False leaves the result as it is.
    """
    x, carried = to_autocast(x), None if carried is None else to_autocast(carried)
    how = _PLAIN if conv is None else how_of(conv)
    inside = _is_fused(x, conv, carried is not None)
    if inside or (kernels.usable(x) and (conv is None or pads_zeros(conv))):
        if not (inside or torch.is_grad_enabled()):  # a GPU often waits for its host
            return convolution(x, _scaled(weight, scale, x.dtype), bias, how, carried, relu)
        y: Tensor = _Fused.apply(x, weight, bias, scale, carried, relu, how, inside)
        return y
    return sum_relu(convolution(x, _scaled(weight, scale), bias, how), carried, relu)


def _is_fused(x: Tensor, conv: nn.Conv2d | None, sums: bool = False) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # the compiler fuses more than this
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        x.numel() > 0
        and (conv is None or _is_known(conv, sums))
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")  # Inductor's; not every build has it
        and (
            (x.dtype == torch.float32 and capability.startswith("AVX"))
            or (x.dtype == torch.bfloat16 and capability.startswith("AVX512"))
        )
    )


def _is_known(conv: nn.Conv2d, sums: bool) -> bool:
    return pads_zeros(conv) and not (sums and conv.groups > 1)  # PyTorch has this in float32 only


def _scaled(weight: Tensor, scale: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    """The weight times its factors; in another precision, which autograd does not see."""
    if dtype in (None, weight.dtype):
        return weight if scale is None else weight * scale[:, None, None, None]
    if scale is None:
        return weight.to(dtype)
    return torch.mul(weight, scale[:, None, None, None], out=torch.empty_like(weight, dtype=dtype))  # in one go


class _Fused(torch.autograd.Function):
    """Inside oneDNN's convolution, or in one pass more over its result on a GPU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        carried: Tensor | None,
        relu: bool,
        how: How,
        inside: bool,
    ) -> Tensor:
        kernel = _scaled(weight, scale, x.dtype)
        compute = _onednn if inside else convolution
        y = compute(x, kernel, bias, how, carried, relu)
        # A processor does not keep the kernel: made again it takes a hundredth of a step, kept it would take half the
        # memory of the weights. A GPU has that, and is asked for fewer operations.
        ctx.save_for_backward(x, weight if inside else kernel, scale, y if relu else None)
        ctx.how, ctx.inside, ctx.weight_dtype = how, inside, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, y = ctx.saved_tensors
        wants_x, _, _, _, wants_sum, *_ = ctx.needs_input_grad
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        if ctx.inside and wants_x:  # of the other gradients only its shape and precision are asked
            weight = _scaled(weight, scale)
        to_x, to_weight, to_bias = gradients(grad, x, weight, ctx.how, ctx.needs_input_grad[:3])
        if to_weight is not None:
            to_weight = to_weight.to(ctx.weight_dtype) if scale is None else to_weight * scale[:, None, None, None]
        if to_bias is not None:
            to_bias = to_bias.to(ctx.bias_dtype)
        return to_x, to_weight, to_bias, None, grad if wants_sum else None, None, None, None


def _onednn(x: Tensor, kernel: Tensor, bias: Tensor | None, how: How, carried: Tensor | None, relu: bool) -> Tensor:
    cast = None if bias is None else bias.to(x.dtype)
    stride, padding, dilation, groups = how
    onednn = (padding, stride, dilation, groups)
    y: Tensor
    last = relu and carried is None
    if winograd.pays(x, kernel, how):
        y = winograd.convolution(x, kernel, cast, last)
    elif carried is None or carried.shape[2:] == (1, 1):  # a sum of one cell inside it is an error in PyTorch 2.11
        y = torch.ops.mkldnn._convolution_pointwise(x, kernel, cast, *onednn, "relu" if last else "none", [], "")
    else:
        after: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], None)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, carried, kernel, cast, *onednn, *after)  # type: ignore[no-any-return]
    return y if carried is None else sum_relu(y, carried, relu)
