"""Which of several ways a processor is faster at."""

import math
import time
from collections.abc import Callable, Sequence


def best_seconds(ways: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """What each way takes at best, all in turn; a round before, in which kernels are built, does not count."""
    best = [math.inf] * len(ways)
    for turn in range(rounds + 1):
        for i, way in enumerate(ways):
            start = time.perf_counter()
            way()
            if turn:
                best[i] = min(best[i], time.perf_counter() - start)
    return best
