"""Run items of many threads in batches, in one thread that owns the model.

An item passes three steps: ``prepare`` in a pool of threads, ``run`` in the one thread, ``finish`` in the pool again.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Found = TypeVar("Found")
Answer = TypeVar("Answer")


class Full(Exception):
    """There is no place for another item, or the batcher is closed."""


@dataclass(frozen=True)
class Queueing:
    """Sizes of a batcher."""

    most: int = 32
    """Largest number of items that wait or are being computed."""
    batch: int = 4
    """Largest number of items of one call of ``run``."""
    wait: float = 0.005
    """Longest time for which an item waits for others, in seconds."""
    workers: int = 2
    """Threads that prepare and finish items."""


@dataclass
class _Job(Generic[Item, Ready, Answer]):
    item: Item | None
    future: "Future[Answer]"
    ready: Ready | None = None


class Batcher(Generic[Item, Ready, Found, Answer]):
    """Collect items, and run them in batches.

    Args:
        prepare: function of one item, such as decoding an image.
        run: function of the prepared items of a batch. It returns one result for each, in their order.
        finish: function of one result, which returns the answer.
        sizes: sizes of the queue and of a batch.
        seen: function that gets the number of items of each batch and its seconds.

    Example:
        >>> with Batcher(int, lambda batch: [2 * x for x in batch], str) as batcher:
        ...     batcher.submit("21").result()
        '42'
    """

    def __init__(
        self,
        prepare: Callable[[Item], Ready],
        run: Callable[[list[Ready]], list[Found]],
        finish: Callable[[Found], Answer],
        sizes: Queueing = Queueing(),
        seen: Callable[[int, float], None] = lambda number, seconds: None,
    ) -> None:
        self._prepare, self._run, self._finish, self._sizes, self._seen = prepare, run, finish, sizes, seen
        self._changed = threading.Condition()
        self._unfinished, self._closed, self._pace = 0, False, 0.0
        self._pool = ThreadPoolExecutor(sizes.workers, "image")
        # Short, so that few prepared items, such as decoded images, are in memory.
        self._waiting: queue.Queue[_Job[Item, Ready, Answer] | None] = queue.Queue(sizes.batch)
        self._thread = threading.Thread(target=self._batches, name="model", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> "Future[Answer]":
        """Queue an item, and return the future of its answer. If you cancel it before its batch, nothing runs for it.

        Raises:
            Full: the queue is full, or the batcher is closed.
        """
        with self._changed:
            if not self.has_room():
                raise Full
            self._unfinished += 1
        job = _Job[Item, Ready, Answer](item, Future())
        job.future.add_done_callback(lambda _: self._leave(job))
        self._pool.submit(self._begin, job)
        return job.future

    def has_room(self) -> bool:
        """Return whether the batcher accepts another item."""
        return not self._closed and self._unfinished < self._sizes.most

    def is_alive(self) -> bool:
        """Return whether the thread of the batches runs."""
        return self._thread.is_alive()

    def __len__(self) -> int:
        """Return the number of items that wait or are being computed."""
        return self._unfinished

    def seconds(self) -> float:
        """Return the time in which the items of now will be done, at the pace of the last batches."""
        return self._unfinished * self._pace

    def close(self) -> None:
        """Finish all items, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._unfinished == 0)
        self._pool.shutdown()
        self._waiting.put(None)
        self._thread.join()

    def __enter__(self) -> "Batcher[Item, Ready, Found, Answer]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave(self, job: _Job[Item, Ready, Answer]) -> None:
        job.item = job.ready = None  # a cancelled job may stay in a queue for a while
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    def _begin(self, job: _Job[Item, Ready, Answer]) -> None:
        item = job.item
        if item is None:  # cancelled
            return
        try:
            job.ready = self._prepare(item)
        except Exception as error:
            _fail(job, error)
        else:
            self._waiting.put(job)

    def _batches(self) -> None:
        """Run one batch after the other until :meth:`close`."""
        while (first := self._waiting.get()) is not None:
            jobs, end = [first], time.monotonic() + self._sizes.wait
            while len(jobs) < self._sizes.batch and (job := self._next(end)) is not None:
                jobs.append(job)
            self._compute([job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _next(self, end: float) -> _Job[Item, Ready, Answer] | None:
        """Return the next job if it comes in time."""
        try:
            job = self._waiting.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return None
        if job is None:  # the end, behind jobs that were cancelled
            self._waiting.put(None)
        return job

    def _compute(self, jobs: list[_Job[Item, Ready, Answer]]) -> None:
        """Run a batch; if it fails, run its items one by one, so that one of them does not spoil the others."""
        if not jobs:
            return
        begin = time.monotonic()
        try:
            found = self._run([job.ready for job in jobs])  # type: ignore[misc]  # they are prepared
            results = list(zip(jobs, found, strict=True))
        except Exception as error:
            if len(jobs) == 1:
                _fail(jobs[0], error)
            else:
                for job in jobs:
                    self._compute([job])
            return
        seconds = time.monotonic() - begin
        self._pace = seconds / len(jobs) if self._pace == 0 else 0.8 * self._pace + 0.2 * seconds / len(jobs)
        self._seen(len(jobs), seconds)
        for job, one in results:
            self._pool.submit(self._end, job, one)

    def _end(self, job: _Job[Item, Ready, Answer], found: Found) -> None:
        try:
            job.future.set_result(self._finish(found))
        except Exception as error:
            _fail(job, error)


def _fail(job: _Job[Item, Ready, Answer], error: Exception) -> None:
    with suppress(InvalidStateError):  # if it is cancelled at this moment
        job.future.set_exception(error)
