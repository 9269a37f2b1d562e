"""Norm layers by name, and frozen batch norm."""

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["frozen", "batch", "sync", "group"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics, scale and shift: an affine map per channel.

    All values are buffers, so no optimizer and no training step changes them. It loads state dicts of batch norms.
    The result has the dtype of the input. Under autocast, a float32 result would make all later layers run in float32.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = affine_map(self)
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)

    def _load_from_state_dict(self, state_dict, prefix, *arguments):  # type: ignore[no-untyped-def]
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def affine_map(norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale (C,) and shift (C,) of a norm with fixed statistics, in float32."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


def make_norm(name: str, channels: int, least: int = 1) -> nn.Module:
    """Return a norm layer for ``channels`` channels.

    ``frozen`` has fixed statistics, ``batch`` those of the batch on one device, ``sync`` those of all devices.
    ``group`` has 32 groups (Wu and He 2018), or fewer, so that each has as many channels, and at least ``least``.
    ``layer`` normalises the channels of each cell, whatever the padding (Li et al. 2022, ViTDet).

    Raises:
        ValueError: the name is unknown.
    """
    kinds: dict[str, type[nn.Module]] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "sync": nn.SyncBatchNorm}
    if name in kinds:
        return kinds[name](channels)
    if name == "group":
        fit = [g for g in range(1, 33) if channels % g == 0 and channels // g >= min(least, channels)]
        return nn.GroupNorm(max(fit), channels)
    if name == "layer":
        from torchvision.models.convnext import LayerNorm2d  # here, as its import takes longer than that of PyTorch

        return LayerNorm2d(channels, eps=1e-6)
    raise ValueError(f"unknown norm {name!r}; use frozen, batch, sync, group or layer")
