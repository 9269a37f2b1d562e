"""Average the weights of several checkpoints of one run, or of runs that started from the same weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detection.convert.pretrained import Pretrained


def average(detectors: Sequence[Pretrained]) -> Pretrained:
    """Return the mean of detectors' weights and norm statistics, computed in float64 (Izmailov et al. 2018, section 3).

    Batch norm counters and settings of the preprocessing come from the last detector.

    Raises:
        ValueError: a detector has other settings, classes or tensors than the last one; the message names it.
    """
    last = detectors[-1]
    for one in detectors[:-1]:
        if (one.config, one.num_classes, one.categories) != (last.config, last.num_classes, last.categories):
            raise ValueError(
                f"{one.source} has other classes or settings than {last.source}; give checkpoints of the same model"
            )
        shapes, expected = ({k: v.shape for k, v in found.state.items()} for found in (one, last))
        if shapes != expected:
            raise ValueError(f"{one.source} has other tensors than {last.source}; give checkpoints of the same model")
    if len(detectors) == 1:
        return last
    names = ", ".join(one.source for one in detectors)
    state = {key: mean([one.state[key] for one in detectors]) for key in last.state}
    return replace(last, source=names, state=state, thresholds=None)  # thresholds belong to other weights


def mean(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors, computed in float64; the last one if they have integers."""
    if not values[-1].is_floating_point():
        return values[-1]
    return torch.stack([value.double() for value in values]).mean(dim=0).to(values[-1].dtype)
