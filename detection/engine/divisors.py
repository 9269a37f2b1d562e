"""Divide the losses of a one-stage detector by the same number on all devices.

The gradients of all devices are averaged. If each device divided by its own positives, a positive beside few others
would count more than one beside many. Two devices would then learn something else than one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from detection.models.detector import Detector
from detection.models.one_stage import OneStage


@contextmanager
def common_divisors(model: Detector) -> Iterator[None]:
    """Divide by :func:`mean_over_devices` inside the context, which all devices must enter together.

    Evaluations do not use it, as devices may have different numbers of batches there.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if not (several and isinstance(model, OneStage)):
        yield
        return
    before, model.head.divisor = model.head.divisor, mean_over_devices
    try:
        yield
    finally:
        model.head.divisor = before


def mean_over_devices(count: Tensor, least: float) -> Tensor:
    """Return the sum of the counts of all devices, at least ``least``, divided by the number of devices."""
    total = count.detach().to(torch.promote_types(count.dtype, torch.float32), copy=True)
    dist.all_reduce(total)
    return total.clamp(min=least) / dist.get_world_size()
