"""The mask head: which pixels of a box belong to the object?

B images   S RoI samples   D detections   R slots that are computed   K classes   m mask side.
He et al. 2017 (Mask R-CNN), sections 3 and 3.1: one mask per class, no competition between classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import kernels
from backbones.conv import is_plain
from backbones.fused import conv_sum_relu
from detection.models.box_head import ConvStack
from detection.ops.levels import Levels
from detection.ops.masks import crop_masks
from detection.ops.roi_align import pool
from detection.structures import IGNORE, Detections, RoISamples, Targets


@dataclass(frozen=True)
class MaskHeadConfig:
    """Layers of the mask head."""

    convs: int = 4
    """3x3 convolutions before the upsampling."""
    channels: int = 256
    """Their width."""
    norm: Literal["batch", "sync", "group"] | None = None
    """Norm after each of them."""
    resolution: int = 14
    """Side of the RoI's features; the mask has twice as many."""
    sampling_ratio: int = 2
    """Sampling points per cell and side; 0 takes as many as the RoI is large (detectron2)."""
    aligned: bool = True
    """Sample half a pixel further left and up, as pixel centres want it; torchvision does not."""
    rounded_frames: bool = False
    """Paste masks into frames of whole pixels, as torchvision does, not exactly into their boxes."""


class MaskHead(nn.Module):
    """Mask logits of RoIs; their loss in training, probabilities at test time."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        convs: int = 4,
        channels: int = 256,
        norm: Literal["batch", "sync", "group"] | None = None,
        resolution: int = 14,
        sampling_ratio: int = 2,
        aligned: bool = True,
        rounded_frames: bool = False,
    ) -> None:
        super().__init__()
        self.convs = ConvStack(in_channels, [channels] * convs, norm)
        self.upsample = nn.ConvTranspose2d(channels if convs else in_channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=0.001)  # every mask starts undecided, for any number of classes
        for layer in (self.upsample, self.logits):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.num_classes, self.strides = num_classes, tuple(strides)
        self.resolution, self.sampling_ratio, self.aligned = resolution, sampling_ratio, aligned
        self.rounded_frames = rounded_frames

    def forward(self, levels: Levels, rois: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits of the RoIs that carry a class.

        Args:
            levels: P2.., as a table.
            rois: (B, S, 4).
            labels: (B, S) int64; slots with a negative label need no mask.

        Returns:
            logits: (R, m, m) float32, of each slot's own class.
            slots: (R,) int64 into B * S: those with a class on a CPU, all on other devices.
        """
        flat = labels.flatten()
        # Picking the slots that need work asks the device how many there are: free on a CPU, a stall on others.
        slots = (
            (flat >= 0).nonzero()[:, 0] if flat.device.type == "cpu" else torch.arange(len(flat), device=flat.device)
        )
        boxes, image = rois.flatten(0, 1)[slots], slots // rois.shape[1]
        x = pool(levels, self.strides, boxes, image, self.resolution, self.sampling_ratio, self.aligned)
        # Only the channel of the slot's class is computed: with 80 classes the others are the larger part of the work.
        own = flat[slots].clamp(min=0)
        x = self.convs(x)
        if not (is_plain(self.upsample, nn.ConvTranspose2d) and is_plain(self.logits)):
            every = self.logits(self.upsample(x).relu())  # (R, K, m, m)
            return every[torch.arange(len(own), device=own.device), own].float(), slots
        logits = self.own_logits(x, self.logits.weight.flatten(1).index_select(0, own))
        assert self.logits.bias is not None
        return logits.float() + self.logits.bias.index_select(0, own)[:, None, None], slots

    def own_logits(self, x: Tensor, weight: Tensor) -> Tensor:
        """Deconvolution, ReLU and one channel of the logits, without its bias.

        With a stride as large as its kernel, a deconvolution is a 1x1 convolution that puts the 2 x 2 pixels of a cell
        side by side; forward a processor is as fast, backward nearly twice. The pixels need no other place, as each
        is then looked at for itself.

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
            x = conv_sum_relu(x, None, kernel, bias)
            return _own_channel(x, weight.to(x.dtype))
        x = conv_sum_relu(x, None, kernel, bias, relu=False)
        logits: Tensor = _ReLUOwnChannel.apply(x, weight.to(x.dtype))[0]
        return logits

    def losses(self, levels: Levels, samples: RoISamples, targets: Targets, positives: int) -> dict[str, Tensor]:
        """``loss_mask``: binary cross-entropy of the own class's mask, mean over known positives (section 3).

        Args:
            positives: the first this many samples per image may be positive.
        """
        assert targets.masks is not None
        rois, matched = samples.boxes[:, :positives], samples.matched[:, :positives]
        labels = samples.labels[:, :positives]
        labels = labels.masked_fill(labels >= self.num_classes, IGNORE)
        truth = crop_masks(targets.masks, targets.boxes, matched, rois, 2 * self.resolution)  # (B, S', m, m)
        known = truth[..., 0, 0] >= 0
        labels = labels.masked_fill(~known, IGNORE)
        logits, slots = self(levels, rois, labels)
        truth, unused = truth.flatten(0, 1)[slots], labels.flatten()[slots] == IGNORE
        loss = F.binary_cross_entropy_with_logits(logits, truth.clamp(min=0), reduction="none").mean(dim=(1, 2))
        # Not times zero, which is no number where an unused slot overflows (float16).
        return {"loss_mask": loss.masked_fill(unused, 0).sum() / (~unused).sum().clamp(min=1)}

    def masks(self, levels: Levels, detections: Detections) -> Detections:
        """The detections with (B, D, m, m) probabilities; zero on padding."""
        logits, slots = self(levels, detections.boxes, detections.labels)
        masks = logits.new_zeros(detections.labels.numel(), *logits.shape[1:]).index_copy(0, slots, logits.sigmoid())
        return detections._replace(masks=masks.view(*detections.labels.shape, *logits.shape[1:]))


def _own_channel(x: Tensor, weight: Tensor) -> Tensor:
    """(R, 4 * C, r, r), best channels last, and (R, C) to (R, m, m)."""
    # In this order a product with a vector is four times as fast on a processor.
    logits = torch.bmm(weight[:, None], _pixels(x).transpose(1, 2))  # (R, 1, r * r * 4)
    n, _, rows, columns = x.shape
    return logits.view(n, rows, columns, 2, 2).transpose(2, 3).reshape(n, 2 * rows, 2 * columns)


def _pixels(x: Tensor) -> Tensor:
    """(R, 4 * C, r, r) to (R, r * r * 4, C), as they lie."""
    n, channels, rows, columns = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, rows * columns * 4, channels // 4)


class _ReLUOwnChannel(torch.autograd.Function):
    """ReLU, in place, and :func:`_own_channel`.

    In the backward pass, too, nothing of the size of ``x`` is allocated: its gradient overwrites it. That gradient is
    no matrix product: as one, with a single row, it takes a processor ten times as long.
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
            from detection.ops.kernels import own_channel

            return own_channel.gradient(x, weight, grad), to_weight
        # The sign of what the ReLU left is its derivative.
        to_pixel = x.sign_().unflatten(1, (4, weight.shape[1]))  # (R, 4, C, r, r)
        to_pixel.mul_(weight[:, None, :, None, None]).mul_(by_cell.permute(0, 3, 4, 1, 2).flatten(1, 2)[:, :, None])
        return x, to_weight
