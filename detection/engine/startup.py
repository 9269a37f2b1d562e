"""A signal outside of training ends the program with one line and the shell's exit code, without a traceback.

Imports nothing that takes long: most of a start is the import of what :mod:`detection.cli` needs.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = ("SIGINT", "SIGTERM", "SIGUSR1")

_received = 0


class Signalled(KeyboardInterrupt):
    """A signal came while no step was running; libraries let it pass as they let Ctrl-C pass."""


@contextmanager
def ending_at_signals() -> Iterator[None]:
    """Let a signal raise :class:`Signalled`, and a second one end the process at once.

    Signals that the user's shell ignores, and handlers of a program that calls this one, stay as they are.
    """
    global _received
    _received = 0
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
        ours = (signal.SIG_DFL, signal.default_int_handler)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] in ours:
                signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that C code has set
                signal.signal(number, handler)


def signalled() -> tuple[str, int] | None:
    """The message and the exit code, if a signal came."""
    if not _received:
        return None
    name = signal.Signals(_received).name
    return f"stopped by {name}; no checkpoint was written at this point", 128 + _received


def raise_if_signalled() -> None:
    """Some libraries swallow what is raised while they are imported.

    Raises:
        Signalled: a signal came.
    """
    if _received:
        raise Signalled


def is_first_rank() -> bool:
    """Whether this process may tell what all processes of a run know."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _end(number: int, frame: FrameType | None) -> None:
    global _received
    if _received:
        os._exit(128 + number)
    _received = number
    raise Signalled
