"""The speed of batches, and the time that the rest of a run takes."""

import math
import time
from collections import deque
from collections.abc import Callable


class Pace:
    """Seconds per batch and images per second, over the last batches.

    The first batch after a pause is left out: it holds what was no batch, such as a start of workers or an evaluation.

    Args:
        window: batches.
        clock: seconds.
    """

    def __init__(self, window: int = 100, clock: Callable[[], float] = time.monotonic) -> None:
        self._batches: deque[tuple[float, int]] = deque(maxlen=window)  # of each its seconds and its images
        self._clock, self._last = clock, math.nan
        self.count = 0
        """Batches that are done."""

    def tick(self, images: int) -> None:
        """A batch is done."""
        now = self._clock()
        self.count += 1
        if not math.isnan(self._last):
            self._batches.append((now - self._last, images))
        self._last = now

    def pause(self) -> None:
        """Do not count the time until the next batch is done."""
        self._last = math.nan

    @property
    def seconds(self) -> float:
        """Per batch; NaN as long as it is not known."""
        return self._sum(0) / len(self._batches) if self._batches else math.nan

    @property
    def images_per_second(self) -> float:
        """NaN as long as it is not known."""
        return self._sum(1) / max(self._sum(0), 1e-9) if self._batches else math.nan

    def _sum(self, part: int) -> float:
        return sum(batch[part] for batch in self._batches)


def time_left(batches: float, each: float, evaluations: float = 0, evaluation: float = 0) -> float:
    """Seconds until a run ends; NaN where that is not known.

    Args:
        batches: that are left; infinite for a run without an end.
        each: seconds of one.
        evaluations: that are left.
        evaluation: seconds of one; 0 as long as none has been timed.
    """
    left = batches * each + evaluations * evaluation
    return left if math.isfinite(left) else math.nan


def duration(seconds: float) -> str:
    """``0:07``, ``12:33``, ``3:12:33`` or ``1d 03h``."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
