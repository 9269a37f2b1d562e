"""What autocast asks for, where a layer casts by itself."""

import torch
from torch import Tensor


def is_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of ``x``; the meta device, on which costs are counted, knows none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def precision(x: Tensor) -> torch.dtype:
    """That of autocast, or of ``x`` where that is off."""
    return torch.get_autocast_dtype(x.device.type) if is_autocast(x) else x.dtype


def to_autocast(x: Tensor) -> Tensor:
    """``x`` in the precision of autocast, or as it is where that is off."""
    return x.to(precision(x))
