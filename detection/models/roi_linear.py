"""How files hold the weight of the box head's first layer: as every other detector, channels first."""

from collections.abc import Mapping

from torch import Tensor

ENTRY = "box_head.fcs.0.weight"
"""The weight of the one such layer that a detector has."""


def as_linear(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a detector's state dict as files have it: with the weight of a linear layer, as other detectors do."""
    return {
        name: value.transpose(1, 2).flatten(1) if name.endswith(ENTRY) and value.dim() == 3 else value
        for name, value in state.items()
    }


def as_roi_linear(weight: Tensor, like: Tensor) -> Tensor:
    """Return the weight of a linear layer in the order of :class:`RoILinear`, if it fits ``like``; else as it is."""
    fits = like.dim() == 3 and weight.shape == (len(like), like.shape[1] * like.shape[2])
    return channels_last(weight, like.shape[2]) if fits else weight


def channels_last(weight: Tensor, channels: int) -> Tensor:
    """(outputs, C * r * r) to (outputs, r * r, C)."""
    return weight.unflatten(1, (channels, -1)).transpose(1, 2)
