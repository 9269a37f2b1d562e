"""How far a detector's own detections move if rounding changes: what its export cannot be expected to reproduce.

Two candidates can have nearly equal scores, or an IoU that is nearly the threshold. Then rounding decides, and a
correct export can find another box. This module computes the detections again, with a little noise in every layer.
Detections that move are sensitive.

n detections; m detections of another run.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from detection import fast
from detection.export.rows import pair, without
from detection.inference.detect import detect
from detection.models.detector import Detector
from detection.structures import Detections

NOISE = 1e-6
"""Noise in the output of each layer, by its root mean square: a few times the rounding error of a convolution."""
RUNS = 3
"""Number of runs with noise."""
ROOM = 2.0
"""A sensitive detection may differ by this factor more than it moves if rounding changes."""
VAGUE = 100.0
"""A detection that may differ by this factor more than the tolerances proves little."""
NOISES = (4, 16, 64)
"""Levels of noise, of 255, in the images that replace one whose detections are mostly vague."""

T = TypeVar("T")


@dataclass(frozen=True)
class Movement:
    """How far the detections of an image move."""

    boxes: Tensor
    """(n,) pixels; infinite where a run lacks the detection."""
    scores: Tensor
    """(n,)."""
    masks: Tensor
    """(n,)."""
    keypoints: Tensor
    """(n,) pixels."""
    others: tuple[Detections, ...]
    """What each run finds."""
    extra: int
    """Largest number of detections of a run that the detector itself lacks."""

    def known(self, found: Detections) -> Tensor:
        """Return which of some detections (m,) a run finds, too: (m,) bool."""
        seen = torch.zeros(len(found.scores), dtype=torch.bool)
        for other in self.others:
            seen |= ~without(len(found.scores), pair(other, found).theirs)
        return seen


class Sensitivity:
    """Runs of a detector with noise in the output of every layer, for the images that need them."""

    def __init__(self, model: Detector) -> None:
        self._model, self._generator = model, torch.Generator()

    @cached_property
    def _noisy(self) -> Detector:
        one = precise(self._model)
        for module in one.modules():
            if not any(True for _ in module.children()) and any(True for _ in module.parameters()):
                module.register_forward_hook(self._changed)
        return one

    def _changed(self, module: nn.Module, given: Any, x: Tensor) -> Tensor:
        # A sum rounds relative to its terms, and these are as large as the layer's other outputs.
        return x + NOISE * x.square().mean().sqrt() * torch.randn(x.shape, generator=self._generator)

    def runs(self, of: Callable[[Detector], T]) -> Iterator[T]:
        """Yield what a function of the detector returns in each run with noise."""
        for seed in range(RUNS):
            self._generator.manual_seed(seed)
            yield of(self._noisy)

    def movement(self, image: np.ndarray, found: Detections) -> Movement:
        """Return how far the detections ``found`` of an image move."""
        count, extra, others = len(found.scores), 0, []
        moved = torch.zeros(4, count, dtype=torch.float64)
        for other in self.runs(lambda model: detect(model, [image])[0]):
            others.append(other)
            pairs = pair(found, other)
            now = torch.full((4, count), torch.inf, dtype=torch.float64)
            now[:, pairs.ours] = torch.stack(pairs[2:])
            moved = moved.maximum(now)
            extra = max(extra, len(other.scores) - len(pairs.theirs))
        return Movement(moved[0], moved[1], moved[2], moved[3], tuple(others), extra)


def precise(model: Detector) -> Detector:
    """Return a plain copy of a detector that computes with channels first in memory.

    With channels last, group norms of PyTorch 2.14 compute the variance as a difference of two means on a CPU. On an
    image of one color this loses up to 6 % of the features.
    """
    one = fast.revert(copy.deepcopy(model)).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    one.register_forward_pre_hook(lambda module, given: (given[0].contiguous(), *given[1:]))
    return one


def with_noise(image: np.ndarray, levels: int) -> np.ndarray:
    """Return an image whose pixels change by up to some levels of 255."""
    most = 257 if image.dtype == np.uint16 else 1
    noise = np.random.default_rng(levels).integers(-levels * most, levels * most + 1, image.shape)
    return (image + noise).clip(0, np.iinfo(image.dtype).max).astype(image.dtype)
