"""The fully connected layer over the features of RoIs, for which neither they nor its weights are moved.

R RoIs   C channels   r RoI resolution.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.autocast import to_autocast


class RoILinear(nn.Module):
    """``nn.Linear(C * r * r, outputs)`` on flattened RoIs, its weight in the order in which RoIs lie: channels last.

    Flattening channels first, as every detector does, would copy all RoIs and, in the backward pass, their gradients:
    50 MB each for 1024 RoIs. Only the order of the sum differs. In state dicts the weight is that of the linear layer,
    (outputs, C * r * r).

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

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"].transpose(1, 2).flatten(1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        weight = state_dict.get(prefix + "weight")
        outputs, cells, channels = self.weight.shape
        if weight is not None and weight.shape == (outputs, cells * channels):  # else it is refused as it is
            state_dict[prefix + "weight"] = _channels_last(weight, channels)
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


def _channels_last(weight: Tensor, channels: int) -> Tensor:
    """(outputs, C * r * r) to (outputs, r * r, C)."""
    return weight.unflatten(1, (channels, -1)).transpose(1, 2)
