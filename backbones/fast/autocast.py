"""The precision of autocast, for layers that cast their inputs themselves."""

import torch
from torch import Tensor


def is_autocast(x: Tensor) -> bool:
    """Return whether autocast is on for the device of ``x``; the meta device has no autocast."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def precision(x: Tensor) -> torch.dtype:
    """Return the dtype of autocast, or the dtype of ``x`` if autocast is off."""
    return torch.get_autocast_dtype(x.device.type) if is_autocast(x) else x.dtype


def to_autocast(x: Tensor) -> Tensor:
    """Cast ``x`` to the dtype of autocast; return it unchanged if autocast is off."""
    return x.to(precision(x))
