"""The fully connected layer over the features of RoIs, for which neither they nor its weights are moved.

R RoIs   C channels   r RoI resolution.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.autocast import to_autocast

ENTRY = "box_head.fcs.0.weight"
"""The weight of the one such layer that a detector has."""


class RoILinear(nn.Module):
    """``nn.Linear(C * r * r, outputs)`` on flattened RoIs, its weight in the order in which RoIs lie: channels last.

    Flattening channels first, as every detector does, would copy all RoIs and, in the backward pass, their gradients:
    50 MB each for 1024 RoIs. Only the order of the sum differs. The weight is (outputs, r * r, C); that of the linear
    layer, (outputs, C * r * r), can be loaded, too, and stands in files (:func:`as_linear`).
    """

    def __init__(self, channels: int, resolution: int, outputs: int) -> None:
        super().__init__()
        weight = torch.empty(outputs, channels * resolution**2)
        nn.init.kaiming_uniform_(weight, a=1)
        self.weight = nn.Parameter(_channels_last(weight, channels).contiguous())  # (outputs, r * r, C)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """(R, C, r, r), best channels last, to (R, outputs).

        Args:
            x: the features.
            overwrite: In the backward pass, write the gradient of ``x`` where it lies, which saves as much memory as it
                takes. Only if nothing else needs ``x`` then; if something does, PyTorch refuses with an error.
        """
        rows, weight, bias = x.permute(0, 2, 3, 1).flatten(1), self.weight.flatten(1), self.bias
        if not (overwrite and torch.is_grad_enabled()):
            return F.linear(rows, weight, bias)
        y: Tensor = _Linear.apply(to_autocast(rows), weight, bias)
        return y

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        if prefix + "weight" in state_dict:
            state_dict[prefix + "weight"] = as_rois_lie(state_dict[prefix + "weight"], self.weight)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        outputs, cells, channels = self.weight.shape
        return f"{channels} x {cells}, {outputs}"


class _Linear(torch.autograd.Function):
    """``F.linear`` in the precision of its input, which the gradient overwrites; the weight is cast again for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        to_weight, to_bias = (grad.t() @ x).to(weight.dtype), grad.sum(0).to(weight.dtype)
        return torch.mm(grad, weight.to(x.dtype), out=x) if ctx.needs_input_grad[0] else None, to_weight, to_bias


def as_linear(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detector's state dict as files have it: with the weight of the linear layer, as other detectors call it."""
    return {
        name: value.transpose(1, 2).flatten(1) if name.endswith(ENTRY) and value.dim() == 3 else value
        for name, value in state.items()
    }


def as_rois_lie(weight: Tensor, like: Tensor) -> Tensor:
    """The weight of the linear layer as one of :class:`RoILinear`, if it fits ``like``; others as they are."""
    fits = like.dim() == 3 and weight.shape == (len(like), like.shape[1] * like.shape[2])
    return _channels_last(weight, like.shape[2]) if fits else weight


def _channels_last(weight: Tensor, channels: int) -> Tensor:
    """(outputs, C * r * r) to (outputs, r * r, C)."""
    return weight.unflatten(1, (channels, -1)).transpose(1, 2)
