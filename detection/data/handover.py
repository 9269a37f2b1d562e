"""Send an error to the training when a data-loader worker cannot send a batch.

A thread of the worker copies batches into shared memory. If there is no room left, Python prints a traceback and drops
the batch. The training would then wait for this batch until the loader's timeout.
"""

from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch._utils import ExceptionWrapper


def send_queue_errors() -> None:
    """Install the error handlers in a worker; call this before its first batch."""
    Queue._on_queue_feeder_error = _hand_over_error  # type: ignore[attr-defined]  # Python's hook for it
    Queue.put = _put  # type: ignore[method-assign,assignment]


_put_by_thread = Queue.put


def _put(queue: Any, item: object, *options: Any, **more: Any) -> None:
    """Call Python's own ``put``, which starts a thread; if no thread can start, send the error without one."""
    try:
        _put_by_thread(queue, item, *options, **more)
    except RuntimeError as error:
        with queue._wlock:
            queue._writer.send_bytes(ForkingPickler.dumps(_instead(item, error)))


def _hand_over_error(queue: Any, error: Exception, item: object) -> None:
    queue.put(_instead(item, error))


def _instead(item: object, error: Exception) -> tuple[object, ExceptionWrapper]:
    """Return the error in place of the batch. It is short text, so it fits through the pipe."""
    number = item[0] if isinstance(item, tuple) else item
    return number, ExceptionWrapper((type(error), error, error.__traceback__), where="in a DataLoader worker")
