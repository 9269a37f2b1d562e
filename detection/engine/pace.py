"""Measure the speed of batches, and estimate the remaining time of a run."""

import math
import time
from collections import deque
from collections.abc import Callable


class Pace:
    """Measure seconds per batch and images per second over the last batches.

    The first batch after a pause does not count, since its time includes other work, such as an evaluation.

    Args:
        window: number of last batches.
        clock: function that returns the time in seconds.
    """

    def __init__(self, window: int = 100, clock: Callable[[], float] = time.monotonic) -> None:
        self._batches: deque[tuple[float, int]] = deque(maxlen=window)  # seconds and number of images of each
        self._clock, self._last = clock, math.nan
        self.count = 0
        """Number of finished batches."""

    def tick(self, images: int) -> None:
        """Count a finished batch with this number of images."""
        now = self._clock()
        self.count += 1
        if not math.isnan(self._last):
            self._batches.append((now - self._last, images))
        self._last = now

    def pause(self) -> None:
        """Ignore the time until the next batch is finished."""
        self._last = math.nan

    @property
    def seconds(self) -> float:
        """Seconds per batch; NaN before the first measurement."""
        return self._sum(0) / len(self._batches) if self._batches else math.nan

    @property
    def images_per_second(self) -> float:
        """Images per second; NaN before the first measurement."""
        return self._sum(1) / max(self._sum(0), 1e-9) if self._batches else math.nan

    def _sum(self, part: int) -> float:
        return sum(batch[part] for batch in self._batches)


def time_left(batches: float, each: float, evaluations: float = 0, evaluation: float = 0) -> float:
    """Return the seconds until a run ends; NaN if unknown.

    Args:
        batches: number of remaining batches; infinite for a run without an end.
        each: seconds per batch.
        evaluations: number of remaining evaluations.
        evaluation: seconds per evaluation; 0 before the first one.
    """
    left = batches * each + evaluations * evaluation
    return left if math.isfinite(left) else math.nan


def duration(seconds: float) -> str:
    """Return a duration as text such as ``0:07``, ``12:33``, ``3:12:33`` or ``1d 03h``."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
