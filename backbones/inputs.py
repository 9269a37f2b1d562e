"""Backbones for images with more or fewer channels than red, green and blue."""

import torch
from torch import nn

from backbones.base import Backbone


def widen_input(backbone: Backbone, channels: int) -> None:
    """Make a backbone for RGB take images of ``channels`` channels.

    With more than three channels the kernels for red, green and blue are repeated in turn, and each is divided by how
    often it occurs; with fewer, all share their mean. A grey image gives the response that it gave before. Mean and
    std follow.

    Raises:
        ValueError: fewer than one channel, or a backbone that does not begin with a plain convolution.
    """
    if channels < 1:
        raise ValueError(f"in_channels is {channels}; an image has at least one")
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.groups != 1 or first.in_channels != len(backbone.mean):
        raise ValueError(f"in_channels {channels}: {type(backbone).__name__} does not begin with a convolution of RGB")
    rgb = first.in_channels
    if channels < rgb:
        mixing = torch.full((channels, rgb), 1 / channels, device="cpu")
    else:
        mixing = torch.eye(rgb, device="cpu").repeat(-(-channels // rgb), 1)[:channels]
        mixing = mixing / mixing.sum(dim=0)
    kernel = torch.einsum("oihw,ci->ochw", first.weight.detach(), mixing.to(first.weight))
    share = (mixing / mixing.sum(dim=1, keepdim=True)).tolist()
    first.in_channels, first.weight = channels, nn.Parameter(kernel.contiguous())
    backbone.mean = tuple(sum(a * b for a, b in zip(row, backbone.mean, strict=True)) for row in share)
    backbone.std = tuple(sum(a * b for a, b in zip(row, backbone.std, strict=True)) for row in share)
