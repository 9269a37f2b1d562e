"""Measure several functions in turn, so that a slow phase of the machine affects all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Step = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """Seconds of each round, by contestant; the first one is this toolkit."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median time in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Return the time of ``name`` divided by the time of this toolkit: the median of the ratios of all rounds."""
        ours = next(iter(self.seconds.values()))
        return statistics.median(b / a for a, b in zip(ours, self.seconds[name], strict=True))


def in_turn(steps: Mapping[str, Step], rounds: int) -> Comparison:
    """Run all steps one after the other, ``rounds`` times, after a warm-up that does not count."""
    warmup = 3 if torch.cuda.is_available() else 1  # the second step of a shape can record a CUDA graph
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(warmup + rounds):
        for name, step in steps.items():
            _wait()
            start = time.perf_counter()
            step()
            _wait()
            if i >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return Comparison(seconds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
