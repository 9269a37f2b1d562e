"""Adapt backbones to images with other channels than RGB."""

import torch
from torch import nn

from backbones.base import Backbone


def widen_input(backbone: Backbone, channels: int) -> None:
    """Make an RGB backbone accept images with ``channels`` channels.

    With more than three channels, the kernels for red, green and blue are repeated in turn; each is divided by its
    number of copies. With fewer, every channel gets the sum of the three kernels, divided by the number of channels.
    The response to a grey image stays the same. Mean and std are adapted, too.

    Raises:
        ValueError: there is no channel, or the backbone does not begin with a plain convolution.
    """
    if channels < 1:
        raise ValueError(f"in_channels is {channels}; it must be at least 1")
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.groups != 1 or first.in_channels != len(backbone.mean):
        raise ValueError(
            f"in_channels {channels}: {type(backbone).__name__} does not begin with a plain convolution of RGB images; "
            "use in_channels 3 or another backbone"
        )
    rgb = first.in_channels
    if channels < rgb:
        mixing = torch.full((channels, rgb), 1 / channels, device="cpu")
    else:
        mixing = torch.eye(rgb, device="cpu").repeat(-(-channels // rgb), 1)[:channels]
        mixing = mixing / mixing.sum(dim=0)
    kernel = torch.einsum("oihw,ci->ochw", first.weight.detach(), mixing.to(first.weight))
    fractions = (mixing / mixing.sum(dim=1, keepdim=True)).tolist()
    first.in_channels, first.weight = channels, nn.Parameter(kernel.contiguous())
    backbone.mean = tuple(sum(a * b for a, b in zip(row, backbone.mean, strict=True)) for row in fractions)
    backbone.std = tuple(sum(a * b for a, b in zip(row, backbone.std, strict=True)) for row in fractions)
