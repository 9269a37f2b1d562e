"""A mask head that computes only the channel of each RoI's class.

B images   S RoIs per image   R RoIs to compute   K classes   m mask side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones.fast import kernels
from backbones.fast.conv import is_plain
from backbones.fast.fused import conv_add_relu
from detection.fast.levels import levels_of
from detection.fast.roi_align import pool
from detection.models.mask_head import MaskHead


class FastMaskHead(MaskHead):
    """:class:`~detection.models.mask_head.MaskHead` that computes one mask per RoI instead of one per class."""

    def forward(self, features: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        flat, config = labels.flatten(), self.config
        # Selecting the RoIs with a class synchronises with a GPU. So only a CPU selects; a GPU computes all of them.
        on_cpu = flat.device.type == "cpu"
        slots = (flat >= 0).nonzero()[:, 0] if on_cpu else torch.arange(len(flat), device=flat.device)
        boxes, image = rois.flatten(0, 1)[slots], slots // rois.shape[1]
        x = pool(
            levels_of(features), self.strides, boxes, image, config.resolution, config.sampling_ratio, config.aligned
        )
        logits = self._own_class(self.convs(x), flat[slots].clamp(min=0))
        if on_cpu:
            logits = logits.new_zeros(len(flat), *logits.shape[1:]).index_copy(0, slots, logits)
        return logits.unflatten(0, labels.shape)

    def _own_class(self, x: Tensor, own: Tensor) -> Tensor:
        """Return the logits (R, m, m) of classes (R,) from features (R, C', r, r)."""
        if not (is_plain(self.upsample, nn.ConvTranspose2d) and is_plain(self.logits)):
            every = self.logits(self.upsample(x).relu())  # (R, K, m, m)
            return every[torch.arange(len(own), device=own.device), own].float()  # type: ignore[no-any-return]
        logits = self.own_logits(x, self.logits.weight.flatten(1).index_select(0, own))
        assert self.logits.bias is not None
        return logits.float() + self.logits.bias.index_select(0, own)[:, None, None]

    def own_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return deconvolution, ReLU and one channel of the logits, without its bias.

        With a stride equal to its kernel size, a deconvolution is a 1x1 convolution that puts the 2 x 2 pixels of a
        cell next to each other. On a CPU, this is as fast in the forward pass and almost twice as fast backward. The
        order of the pixels does not matter for the next layer, which processes each pixel separately.

        Args:
            x: (R, C', r, r).
            weight: (R, C).

        Returns:
            (R, m, m).
        """
        kernel = self.upsample.weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]  # (4 * C, C', 1, 1)
        assert self.upsample.bias is not None
        bias = self.upsample.bias.repeat(4)
        if not torch.is_grad_enabled():
            x = conv_add_relu(x, None, kernel, bias)
            return _own_channel(x, weight.to(x.dtype))
        x = conv_add_relu(x, None, kernel, bias, relu=False)
        logits: Tensor = _ReLUOwnChannel.apply(x, weight.to(x.dtype))[0]
        return logits


def _own_channel(x: Tensor, weight: Tensor) -> Tensor:
    """Map features (R, 4 * C, r, r), best in channels-last layout, and weights (R, C) to logits (R, m, m)."""
    # A CPU computes the product with a vector four times as fast in this order.
    logits = torch.bmm(weight[:, None], _pixels(x).transpose(1, 2))  # (R, 1, r * r * 4)
    n, _, rows, columns = x.shape
    return logits.view(n, rows, columns, 2, 2).transpose(2, 3).reshape(n, 2 * rows, 2 * columns)


def _pixels(x: Tensor) -> Tensor:
    """Return (R, 4 * C, r, r) as (R, r * r * 4, C), without moving data in channels-last layout."""
    n, channels, rows, columns = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, rows * columns * 4, channels // 4)


class _ReLUOwnChannel(torch.autograd.Function):
    """ReLU, in place, and :func:`_own_channel`.

    The backward pass allocates nothing as large as ``x``: the gradient overwrites ``x``. It does not use a matrix
    product, which would have a single row and take a CPU ten times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.mark_dirty(x.relu_())
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        return _own_channel(x, weight), x

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        n, _, rows, columns = x.shape
        by_cell = grad.view(n, rows, 2, columns, 2).transpose(2, 3)  # (R, r, r, 2, 2)
        to_weight = torch.bmm(by_cell.flatten(1)[:, None], _pixels(x)).squeeze(1)
        if kernels.usable(x) and x.is_contiguous(memory_format=torch.channels_last):
            from detection.fast.kernels import own_channel

            return own_channel.gradient(x, weight, grad), to_weight
        # The sign of the ReLU's result is its derivative.
        to_pixel = x.sign_().unflatten(1, (4, weight.shape[1]))  # (R, 4, C, r, r)
        to_pixel.mul_(weight[:, None, :, None, None]).mul_(by_cell.permute(0, 3, 4, 1, 2).flatten(1, 2)[:, :, None])
        return x, to_weight
