"""Numbers for monitoring, in the text format of Prometheus."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the buckets of a time."""
SIZES = (1, 2, 4, 8, 16, 32)
"""Upper ends of the buckets of a batch size."""


class Histogram:
    """Count values in buckets; the caller keeps threads apart."""

    def __init__(self, name: str, meaning: str, ends: Sequence[float]) -> None:
        self._name, self._meaning, self._ends = name, meaning, ends
        self._counts, self._sum = [0] * (len(ends) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._ends, value)] += 1
        self._sum += value

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format; each bucket counts all values up to its end."""
        yield from _head(self._name, "histogram", self._meaning)
        total = 0
        for end, count in zip([*map(str, self._ends), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{self._name}_bucket{{le="{end}"}} {total}'
        yield f"{self._name}_sum {self._sum:.6f}"
        yield f"{self._name}_count {total}"


class Metrics:
    """What a server counts; any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds = Histogram("rcnn_request_seconds", "Time from a request to the end of its response.", SECONDS)
        self._batches = Histogram("rcnn_batch_size", "Images of one run of the detector.", SIZES)
        self._running = Histogram("rcnn_batch_seconds", "Time of one run of the detector.", SECONDS)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; the time only of those with images."""
        with self._lock:
            self._requests[path, status] += 1
            if path in ("/predict", "/picture"):
                self._seconds.observe(seconds)

    def batch(self, number: int, seconds: float) -> None:
        """Count a run of the detector."""
        with self._lock:
            self._batches.observe(number)
            self._running.observe(seconds)

    def text(self, waiting: int) -> str:
        """Return all numbers.

        Args:
            waiting: number of images that wait or are being computed.
        """
        with self._lock:
            lines = [*_head("rcnn_requests_total", "counter", "Requests by path and HTTP status.")]
            for (path, status), number in sorted(self._requests.items()):
                lines.append(f'rcnn_requests_total{{path="{path}",status="{status}"}} {number}')
            lines += _head("rcnn_queue_length", "gauge", "Images that wait or are being computed.")
            lines.append(f"rcnn_queue_length {waiting}")
            for histogram in (self._seconds, self._batches, self._running):
                lines += histogram.lines()
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
