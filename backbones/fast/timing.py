"""Measure which implementation is fastest."""

import math
import time
from collections.abc import Callable, Sequence


def best_seconds(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Run functions in turn and return the shortest time of each; a first round, to warm up, does not count."""
    best = [math.inf] * len(functions)
    for turn in range(rounds + 1):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    return best
