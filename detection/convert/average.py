"""One detector from several of the same run, or of runs that began alike: the mean of their weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detection.convert.pretrained import Pretrained


def average(detectors: Sequence[Pretrained]) -> Pretrained:
    """The mean of detectors' weights and norm statistics, summed in float64 (Izmailov et al. 2018, section 3).

    Counters of batch norms are those of the last one, and so are the settings of its preprocessing.

    Raises:
        ValueError: detectors of other settings, classes or weights than the last one, naming it.
    """
    last = detectors[-1]
    for one in detectors[:-1]:
        if (one.config, one.num_classes, one.categories) != (last.config, last.num_classes, last.categories):
            raise ValueError(
                f"{one.source} has other classes or settings than {last.source}; their mean is no detector"
            )
        shapes, expected = ({k: v.shape for k, v in found.state.items()} for found in (one, last))
        if shapes != expected:
            raise ValueError(f"{one.source} has other weights than {last.source}; their mean is no detector")
    names = ", ".join(one.source for one in detectors)
    return replace(last, source=names, state={key: _mean([one.state[key] for one in detectors]) for key in last.state})


def _mean(values: Sequence[Tensor]) -> Tensor:
    if not values[-1].is_floating_point():
        return values[-1]
    return torch.stack([value.double() for value in values]).mean(dim=0).to(values[-1].dtype)
