"""Errors that users see as a short message instead of a traceback."""

import errno
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from detection.data.errors import DataError, first_line
from detection.engine.lightning_mends.processes import hidden_error

SHM = "the shared memory (/dev/shm) is full"
SHM_REMEDY = "use --data.workers 0, or give a container more with docker run --shm-size 2g"
LOST = (
    r"(?i)gloo|Connection (closed|reset|refused) by|Connection reset|Broken pipe|failed to recv|TCPStore"
    r"|NCCL.*(remote|closed|abort)|terminated with signal"
)


class InputError(ValueError):
    """A file, an annotation or a setting of the user is wrong."""


class NonFiniteError(RuntimeError):
    """A loss or a weight is NaN or infinite, or the training diverged."""


class StoppedError(RuntimeError):
    """A signal stopped a command between two steps or batches."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
        self.code = 128 + number


@contextmanager
def user_input() -> Iterator[None]:
    """Convert ``OSError`` and ``ValueError`` into :class:`InputError`, which a user sees as one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error


def user_message(error: BaseException) -> tuple[str, int | None]:
    """Return the message for a user and the exit code; the code is None if the user needs the traceback."""
    error = hidden_error(error)
    if isinstance(error, DataError):
        return error.plain_message(), 2
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, NonFiniteError):
        return str(error), 1
    if isinstance(error, StoppedError):
        return str(error), error.code
    if isinstance(error, RuntimeError) and (found := re.match(r"(\S+) does not have a deterministic", str(error))):
        return f"--deterministic strict: {found[1]} has no deterministic form on this device; use seeded", 2
    if message := exhausted(error):
        return message, 1
    if lost_rank(error):
        return f"another rank is gone ({first_line(error)}); continue with --resume", 1
    if lost_worker(error):
        place = "; ".join(getattr(error, "__notes__", []))
        what = first_line(error)
        if not what.startswith("DataLoader"):
            what = f"DataLoader worker is gone ({what})."
        return f"{what} {place}; try fewer data.workers, more memory, or only that image", 1
    return str(error), None


def exhausted(error: BaseException) -> str | None:
    """Return a message with a remedy if memory, shared memory, threads or processes ran out; None for other errors."""
    text = str(error)
    if "No space left on device" in text and ("torch_" in text or "shm" in text or "shared memory" in text):
        return f"{SHM}: {SHM_REMEDY}"
    if "Bus error" in text and "shared memory" in text:
        return f"a worker was killed by a bus error, as by {SHM}: {SHM_REMEDY}"
    if "can't start new thread" in text or _has_errno(error, errno.EAGAIN, "Resource temporarily unavailable"):
        return (
            "the system allows no more threads or processes (ulimit -u, or a container's limit of PIDs): raise the "
            "limit, or try --data.workers 0 and OMP_NUM_THREADS=1"
        )
    if "CUDA out of memory" in text or type(error).__name__ == "OutOfMemoryError":
        return "the GPU has no memory left: try a smaller data.batch_size or data.short_side, or bf16-mixed precision"
    if (
        isinstance(error, MemoryError)
        or "can't allocate memory" in text
        or _has_errno(error, errno.ENOMEM, "Cannot allocate memory")
    ):
        return "there is no memory left: try a smaller data.batch_size, fewer data.workers or a smaller data.short_side"
    return None


def _has_errno(error: BaseException, number: int, text: str) -> bool:
    return (isinstance(error, OSError) and error.errno == number) or (
        isinstance(error, RuntimeError) and text in str(error)
    )


def lost_rank(error: BaseException) -> bool:
    """Return whether another process of the run ended during communication, by messages of gloo, NCCL and PyTorch."""
    return isinstance(error, RuntimeError) and re.search(LOST, str(error)) is not None


def lost_worker(error: BaseException) -> bool:
    """Return whether a worker was killed, crashed or hangs: PyTorch reports it, or the connection to it broke."""
    return isinstance(error, ConnectionError | EOFError) or (
        isinstance(error, RuntimeError) and str(error).startswith("DataLoader")
    )
