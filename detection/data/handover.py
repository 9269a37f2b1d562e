"""What a loader's worker could not hand over reaches the training as an error.

A thread of the worker puts batches into shared memory. Where there is no room, Python prints a traceback and drops the
batch, and the training waits for it until its time is up.
"""

from multiprocessing.queues import Queue
from typing import Any

from torch._utils import ExceptionWrapper


def tell_the_training() -> None:
    """For a loader's worker, before its first batch."""
    Queue._on_queue_feeder_error = _hand_over_error  # type: ignore[attr-defined]  # Python's hook for it


def _hand_over_error(queue: Any, error: Exception, item: object) -> None:
    """Put the error in the batch's place; it is text, which goes through a pipe."""
    number = item[0] if isinstance(item, tuple) else item
    wrapped = ExceptionWrapper((type(error), error, error.__traceback__), where="in a DataLoader worker")
    queue.put((number, wrapped))
