"""The finest level of a pyramid, computed without storing its merged map, the largest of all maps."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fast.autocast import to_autocast
from backbones.fast.conv import ConvOptions, convolution, input_gradient, is_large, options_of, parameter_gradients


def finest_level(stage: Tensor, coarser: Tensor, lateral: nn.Conv2d, output: nn.Conv2d) -> Tensor:
    """Return ``output(lateral(stage) + enlarged coarser)``; the backward pass recomputes the sum.

    Recomputing is cheap: a 1x1 convolution of maps that PyTorch stores anyway. The backward pass frees the sum before
    it allocates the sum's gradient, and a CPU processes large images one by one. At 800 pixels, this saves a tenth of
    the memory of a training step.

    Args:
        stage: (B, C, H, W).
        coarser: (B, D, H', W').
        lateral: convolution from C to D channels.
        output: convolution from D to D channels, without stride.
    """
    stage, coarser, options = to_autocast(stage), to_autocast(coarser), (options_of(lateral), options_of(output))
    y: Tensor = _Finest.apply(stage, coarser, lateral.weight, lateral.bias, output.weight, output.bias, options)
    return y


class _Finest(torch.autograd.Function):
    """The finest level in the precision of its input; the backward pass casts the weights again."""

    @staticmethod
    def forward(ctx: Any, stage: Tensor, coarser: Tensor, *rest: Any) -> Tensor:
        first, first_bias, weight, bias, ctx.options = rest
        ctx.save_for_backward(stage, coarser, first, first_bias, weight)
        return convolution(_merged(stage, coarser, first, first_bias, ctx.options[0]), weight, bias, ctx.options[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        stage, coarser, first, first_bias, weight = ctx.saved_tensors
        before, after = ctx.options
        together = 1 if is_large(stage) else len(stage)
        parts = [
            _gradients(*images, first, first_bias, weight, before, after, ctx.needs_input_grad)
            for images in zip(grad.split(together), stage.split(together), coarser.split(together), strict=True)
        ]
        to_stage, to_coarser, *to_parameters = zip(*parts, strict=True)
        to_maps = (_joined(images, torch.cat) for images in (to_stage, to_coarser))
        return *to_maps, *(_joined(images, sum) for images in to_parameters), None


def _gradients(
    grad: Tensor,
    stage: Tensor,
    coarser: Tensor,
    first: Tensor,
    first_bias: Tensor | None,
    weight: Tensor,
    before: ConvOptions,
    after: ConvOptions,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return, for some images, the gradients of both maps and of the parameters of both layers."""
    wants_stage, wants_coarser, wants_first, wants_first_bias, wants_weight, wants_bias, _ = wanted
    to_stage = to_coarser = to_first = to_first_bias = to_weight = to_bias = None
    if wants_weight or wants_bias:
        merged = _merged(stage, coarser, first, first_bias, before)
        to_weight, to_bias = parameter_gradients(grad, merged, weight, after, wants_bias)
        del merged
    if wants_stage or wants_coarser or wants_first or wants_first_bias:
        # ``grad`` stands for the sum, as only the shape matters.
        grad = input_gradient(grad, grad, weight, after)
    if wants_first or wants_first_bias:
        to_first, to_first_bias = parameter_gradients(grad, stage, first, before, wants_first_bias)
    if wants_stage:
        to_stage = input_gradient(grad, stage, first, before)
    if wants_coarser:
        to_coarser = torch.ops.aten.upsample_nearest2d_backward(grad, grad.shape[-2:], coarser.shape)
    return to_stage, to_coarser, to_first, to_first_bias, to_weight, to_bias


def _joined(parts: Sequence[Tensor | None], join: Callable[[Any], Any]) -> Tensor | None:
    return parts[0] if len(parts) == 1 or parts[0] is None else join(parts)


def add_enlarged(x: Tensor, coarser: Tensor) -> Tensor:
    """Return ``x`` plus the coarser map, enlarged to its size by nearest neighbours; may overwrite ``x``.

    Args:
        x: (B, C, H, W), channels last or not.
        coarser: (B, C, H', W').
    """
    if x.shape[-2:] == (2 * coarser.shape[-2], 2 * coarser.shape[-1]) and not torch.compiler.is_compiling():
        y: Tensor = _AddDoubled.apply(x, coarser)
        return y
    return x.add_(F.interpolate(coarser, size=x.shape[-2:], mode="nearest"))


class _AddDoubled(torch.autograd.Function):
    """Add each coarse cell to the four cells that it covers, without allocating the enlarged map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, coarser: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        height, width = coarser.shape[-2:]
        x.unflatten(2, (height, 2)).unflatten(4, (width, 2)).add_(coarser[:, :, :, None, :, None])
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = grad.shape
        coarse = (batch, channels, height // 2, width // 2)
        return grad, torch.ops.aten.upsample_nearest2d_backward(grad, grad.shape[-2:], coarse)


def _merged(stage: Tensor, coarser: Tensor, weight: Tensor, bias: Tensor | None, options: ConvOptions) -> Tensor:
    return add_enlarged(convolution(stage, weight, bias, options), coarser)
