"""Convert the weight of the box head's first layer to the layout in files, channels first as in other detectors."""

from collections.abc import Mapping

from torch import Tensor

ENTRY = "fcs.0.weight"
"""End of this weight's name in a detector's state dict."""


def as_linear(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a detector's state dict in the layout of files: with the weight of an ordinary linear layer."""
    return {
        name: value.transpose(1, 2).flatten(1) if name.endswith(ENTRY) and value.dim() == 3 else value
        for name, value in state.items()
    }


def as_roi_linear(weight: Tensor, like: Tensor) -> Tensor:
    """Convert a linear layer's weight to the layout of :class:`RoILinear`; return it unchanged if it does not fit."""
    fits = like.dim() == 3 and weight.shape == (len(like), like.shape[1] * like.shape[2])
    return channels_last(weight, like.shape[2]) if fits else weight


def channels_last(weight: Tensor, channels: int) -> Tensor:
    """Convert (outputs, C * r * r) to (outputs, r * r, C)."""
    return weight.unflatten(1, (channels, -1)).transpose(1, 2)
