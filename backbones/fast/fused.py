"""Fuse a convolution with a fixed norm, a residual and a ReLU.

On a CPU, oneDNN does all of this inside the convolution. On a GPU, one additional kernel follows the convolution.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from backbones.fast import kernels, winograd
from backbones.fast.autocast import to_autocast
from backbones.fast.conv import ConvOptions, add_relu, convolution, gradients, is_plain, options_of, pads_zeros
from backbones.norms import FrozenBatchNorm2d, affine_map

_PLAIN = ((1, 1), (0, 0), (1, 1), 1)
"""Stride, padding, dilation and groups of most 1x1 convolutions."""
_OWN_MAP = "affine_map_of_this_step"
"""Attribute in which a frozen norm stores its affine map inside :func:`batched_affine_maps`."""


def conv_norm(
    x: Tensor, conv: nn.Conv2d, norm: nn.Module, relu: bool = False, residual: Tensor | None = None
) -> Tensor:
    """Return ``relu(norm(conv(x)) + residual)``, with fewer operations if the norm is a fixed affine map.

    The norm's scale is multiplied into the kernel (``w * scale``) and its shift becomes the bias. The function is the
    same, and ``w`` still gets its gradient. The rounding differs, but the error does not grow. In both cases the last
    features of a ResNet-50 in float32 differ from float64 by 1e-4 of their standard deviation.

    Args:
        x: (B, C, H, W).
        conv: the convolution.
        norm: the norm after it.
        relu: whether a ReLU follows.
        residual: (B, O, H', W'), added before the ReLU, or None.
    """
    if type(norm) is nn.Identity and is_plain(conv):  # fold_norm has folded it permanently
        return conv_add_relu(x, conv, conv.weight, conv.bias, None, residual, relu)
    if _folds(conv, norm) and not (torch.is_grad_enabled() and _is_trainable(norm)):
        scale, shift = _scale_and_shift(norm)
        return conv_add_relu(x, conv, conv.weight, shift, scale, residual, relu)
    return add_relu(norm(conv(x)), residual, relu)


def fold_norm(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold a fixed norm into its convolution permanently, and replace the norm by the identity."""
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


def _is_trainable(norm: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in norm.parameters())


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, FrozenBatchNorm2d | nn.BatchNorm2d)
    known: tuple[Tensor, Tensor] | None = norm.__dict__.get(_OWN_MAP)
    return affine_map(norm) if known is None else known


@contextmanager
def batched_affine_maps(network: nn.Module) -> Iterator[None]:
    """Compute the affine maps of all frozen norms in five batched operations; each norm stores its map in the context.

    Without this, a GPU would launch five kernels for each of 53 norms. On a CPU the context does nothing.
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
    """Return ``conv(x).relu()``, bit for bit."""
    if not is_plain(conv):
        return conv(x).relu()  # type: ignore[no-any-return]
    return conv_add_relu(x, conv, conv.weight, conv.bias)


def conv_add_relu(
    x: Tensor,
    conv: nn.Conv2d | None,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """Return ``relu(convolution + residual)``; under autocast, in its precision.

    On a CPU, oneDNN adds the residual and applies the ReLU before it writes the result, which saves a read and a write.
    At 800 pixels this saves a quarter of the inference time in bfloat16 that is not spent on multiplications. On a GPU,
    one kernel also adds the bias (:mod:`backbones.fast.kernels.epilogue`). The sum is rounded once instead of twice.

    Args:
        x: (B, C, H, W).
        conv: the convolution that gives stride, padding, dilation and groups; None: 1, 0, 1 and 1.
        weight: (O, C / groups, k, k).
        bias: (O,), or None.
        scale: (O,), a factor of the weight without a gradient, or None.
        residual: (B, O, H', W'), or None.
        relu: whether to apply a ReLU.
    """
    x, residual = to_autocast(x), None if residual is None else to_autocast(residual)
    options = _PLAIN if conv is None else options_of(conv)
    inside = _is_fused(x, conv, residual is not None)
    if inside or (kernels.usable(x) and (conv is None or pads_zeros(conv))):
        if not (inside or torch.is_grad_enabled()):  # a GPU often waits for its host
            return convolution(x, _scaled(weight, scale, x.dtype), bias, options, residual, relu)
        y: Tensor = _Fused.apply(x, weight, bias, scale, residual, relu, options, inside)
        return y
    return add_relu(convolution(x, _scaled(weight, scale), bias, options), residual, relu)


def _is_fused(x: Tensor, conv: nn.Conv2d | None, sums: bool = False) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # torch.compile fuses more than this
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        x.numel() > 0
        and (conv is None or _is_known(conv, sums))
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")  # part of Inductor; some builds lack it
        and (
            (x.dtype == torch.float32 and capability.startswith("AVX"))
            or (x.dtype == torch.bfloat16 and capability.startswith("AVX512"))
        )
    )


def _is_known(conv: nn.Conv2d, sums: bool) -> bool:
    return pads_zeros(conv) and not (sums and conv.groups > 1)  # PyTorch fuses sums of groups in float32 only


def _scaled(weight: Tensor, scale: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    """Return the weight times its scale; with another dtype, autograd does not record the product."""
    if dtype in (None, weight.dtype):
        return weight if scale is None else weight * scale[:, None, None, None]
    if scale is None:
        return weight.to(dtype)
    # ``out`` multiplies and casts in one pass.
    return torch.mul(weight, scale[:, None, None, None], out=torch.empty_like(weight, dtype=dtype))


class _Fused(torch.autograd.Function):
    """The fused operation: inside oneDNN's convolution on a CPU, or as one kernel after the convolution on a GPU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        residual: Tensor | None,
        relu: bool,
        options: ConvOptions,
        inside: bool,
    ) -> Tensor:
        kernel = _scaled(weight, scale, x.dtype)
        compute = _onednn if inside else convolution
        y = compute(x, kernel, bias, options, residual, relu)
        # A CPU does not store the kernel: to compute it again takes 1% of a step, and to store it would take half the
        # memory of the weights. A GPU stores it, to launch fewer kernels.
        ctx.save_for_backward(x, weight if inside else kernel, scale, y if relu else None)
        ctx.options, ctx.inside, ctx.weight_dtype = options, inside, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, y = ctx.saved_tensors
        wants_x, _, _, _, wants_sum, *_ = ctx.needs_input_grad
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        if ctx.inside and wants_x:  # the other gradients use only the shape and precision of the weight
            weight = _scaled(weight, scale)
        to_x, to_weight, to_bias = gradients(grad, x, weight, ctx.options, ctx.needs_input_grad[:3])
        if to_weight is not None:
            to_weight = to_weight.to(ctx.weight_dtype) if scale is None else to_weight * scale[:, None, None, None]
        if to_bias is not None:
            to_bias = to_bias.to(ctx.bias_dtype)
        return to_x, to_weight, to_bias, None, grad if wants_sum else None, None, None, None


def _onednn(
    x: Tensor, kernel: Tensor, bias: Tensor | None, options: ConvOptions, residual: Tensor | None, relu: bool
) -> Tensor:
    cast = None if bias is None else bias.to(x.dtype)
    stride, padding, dilation, groups = options
    onednn = (padding, stride, dilation, groups)
    y: Tensor
    last = relu and residual is None
    if winograd.should_use(x, kernel, options):
        y = winograd.convolution(x, kernel, cast, last)
    elif residual is None or residual.shape[2:] == (1, 1):  # PyTorch 2.11 cannot fuse a sum of one cell
        y = torch.ops.mkldnn._convolution_pointwise(x, kernel, cast, *onednn, "relu" if last else "none", [], "")
    else:
        after: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], None)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, residual, kernel, cast, *onednn, *after)  # type: ignore[no-any-return]
    return y if residual is None else add_relu(y, residual, relu)
