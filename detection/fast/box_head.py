"""A faster box head: it pools RoIs from the table of a pyramid and fuses its layers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fast.autocast import to_autocast
from backbones.fast.conv import is_plain
from backbones.fast.fused import conv_relu
from detection.fast.levels import levels_of
from detection.fast.matching import match_boxes
from detection.fast.roi_align import roi_align
from detection.models.box_head import BoxHead, RoILinear
from detection.models.conv_stack import ConvStack
from detection.structures import Targets


class FastBoxHead(BoxHead):
    """:class:`~detection.models.box_head.BoxHead` that writes the gradient of RoI features over the features."""

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        config, shape = self.config, rois.shape[:2]
        pooled = roi_align(
            levels_of(features), self.strides, rois, config.resolution, config.sampling_ratio, config.aligned
        ).flatten(0, 1)
        x = self.convs(pooled)
        for fc in self.fcs:
            # Nothing else needs the result of RoIAlign, but the ReLU of a convolution needs its own result.
            x = (fc(x, overwrite=x is pooled) if isinstance(fc, FastRoILinear) else fc(x)).relu_()
        x = x.flatten(1)
        return self.logits(x).float().view(*shape, -1), self.deltas(x).float().view(*shape, -1, 4)

    def match(self, targets: Targets, boxes: Tensor) -> tuple[Tensor, Tensor]:
        threshold = self.config.threshold
        return match_boxes(targets.boxes, targets.crowd, boxes, threshold, threshold)


class FastConvStack(ConvStack):
    """:class:`~detection.models.conv_stack.ConvStack` with each convolution and ReLU in one operation."""

    def forward(self, x: Tensor) -> Tensor:
        convs, relus = list(self)[::2], list(self)[1::2]
        if not all(is_plain(conv) for conv in convs) or not all(is_plain(relu, nn.ReLU) for relu in relus):
            return super().forward(x)  # type: ignore[no-any-return]
        for conv in convs:
            x = conv_relu(x, conv)  # type: ignore[arg-type]
        return x


class FastRoILinear(RoILinear):
    """:class:`~detection.models.box_head.RoILinear` that can write the gradient of its input over the input."""

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """Map features (R, C, r, r), best in channels-last layout, to (R, outputs).

        Args:
            x: the features.
            overwrite: in the backward pass, write the gradient of ``x`` over ``x``, which saves 50 MB for 1024 RoIs.
                Nothing else may need ``x`` in the backward pass; otherwise PyTorch raises an error.
        """
        if not (overwrite and torch.is_grad_enabled()):
            return super().forward(x)
        rows = to_autocast(x.permute(0, 2, 3, 1).flatten(1))
        y: Tensor = _Linear.apply(rows, self.weight.flatten(1), self.bias)
        return y


class _Linear(torch.autograd.Function):
    """``F.linear`` in the precision of its input; backward overwrites the input and casts the weight again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        to_weight, to_bias = (grad.t() @ x).to(weight.dtype), grad.sum(0).to(weight.dtype)
        return torch.mm(grad, weight.to(x.dtype), out=x) if ctx.needs_input_grad[0] else None, to_weight, to_bias
