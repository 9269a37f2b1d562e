"""Errors whose message is all that a user needs to see."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from detection.data.errors import DataError, first_line


class InputError(ValueError):
    """Something that the user gave is wrong: a file, an annotation, a setting."""


class NonFiniteError(RuntimeError):
    """A loss or the weights are no longer numbers."""


class StoppedError(RuntimeError):
    """Training was told to stop and has saved itself."""

    def __init__(self, number: int, step: int, checkpoint: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}; go on with --resume {checkpoint}")
        self.code = 128 + number


@contextmanager
def user_input() -> Iterator[None]:
    """Where files and settings are taken in: what goes wrong here is told in a line, without a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error


def told(error: BaseException) -> tuple[str, int | None]:
    """What a user is told instead of a traceback, and the exit code; None for what only a traceback explains."""
    if isinstance(error, DataError):
        return error.told(), 2
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, NonFiniteError):
        return str(error), 1
    if isinstance(error, StoppedError):
        return str(error), error.code
    if isinstance(error, RuntimeError) and (found := re.match(r"(\S+) does not have a deterministic", str(error))):
        return f"--deterministic strict: {found[1]} cannot be computed alike twice on this device; use seeded", 2
    if lost_worker(error):
        place = "; ".join(getattr(error, "__notes__", []))
        what = first_line(error)
        if not what.startswith("DataLoader"):
            what = f"DataLoader worker is gone ({what})."
        return f"{what} {place}; try fewer data.workers, more memory, or that image alone", 1
    return str(error), None


def lost_worker(error: BaseException) -> bool:
    """Whether a worker was killed, crashed or hangs: PyTorch's word for it, or a connection that breaks before that."""
    return isinstance(error, ConnectionError | EOFError) or (
        isinstance(error, RuntimeError) and str(error).startswith("DataLoader")
    )
