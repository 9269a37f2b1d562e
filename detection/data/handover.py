"""What a loader's worker could not hand over reaches the training as an error.

A thread of the worker puts batches into shared memory. Where there is no room, Python prints a traceback and drops the
batch, and the training waits for it until its time is up.
"""

from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch._utils import ExceptionWrapper


def tell_the_training() -> None:
    """For a loader's worker, before its first batch."""
    Queue._on_queue_feeder_error = _hand_over_error  # type: ignore[attr-defined]  # Python's hook for it
    Queue.put = _put  # type: ignore[method-assign,assignment]


_put_by_thread = Queue.put


def _put(queue: Any, item: object, *options: Any, **more: Any) -> None:
    """Python's, which begins with a new thread; where there is none to be had, the error goes out without one."""
    try:
        _put_by_thread(queue, item, *options, **more)
    except RuntimeError as error:
        with queue._wlock:
            queue._writer.send_bytes(ForkingPickler.dumps(_instead(item, error)))


def _hand_over_error(queue: Any, error: Exception, item: object) -> None:
    queue.put(_instead(item, error))


def _instead(item: object, error: Exception) -> tuple[object, ExceptionWrapper]:
    """The error in the batch's place; it is text, which goes through a pipe."""
    number = item[0] if isinstance(item, tuple) else item
    return number, ExceptionWrapper((type(error), error, error.__traceback__), where="in a DataLoader worker")
