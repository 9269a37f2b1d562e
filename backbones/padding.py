"""Padding for networks that need sides of certain multiples."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_to(images: Tensor, multiple: int) -> Tensor:
    """Pad images with zeros at the right and the bottom, so that both sides are multiples."""
    right, bottom = -images.shape[-1] % multiple, -images.shape[-2] % multiple
    return F.pad(images, (0, right, 0, bottom)) if right or bottom else images


def cut_to(features: Sequence[Tensor], images: Tensor, strides: Sequence[int]) -> tuple[Tensor, ...]:
    """Remove the cells of feature maps that lie on the padding of :func:`pad_to`."""
    height, width = images.shape[-2:]
    return tuple(x[..., : -(-height // s), : -(-width // s)] for x, s in zip(features, strides, strict=True))
