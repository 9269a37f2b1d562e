"""End the program at a signal outside of training, with one line and the shell's exit code, without a traceback.

This file has no slow imports, so that a program can call :func:`ending_at_signals` before everything else.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = ("SIGINT", "SIGTERM", "SIGUSR1")

_received = 0
_active = False


class Signalled(KeyboardInterrupt):
    """A signal came while no step was running; libraries do not catch it, as they do not catch Ctrl-C."""


@contextmanager
def ending_at_signals() -> Iterator[None]:
    """Raise :class:`Signalled` at a signal, and end the process at a second one.

    This does not change signals that the user's shell ignores, nor handlers of a program that calls this one. Inside
    another ``with ending_at_signals()`` it does nothing.
    """
    global _active, _received
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    _active, _received = True, 0
    before = {number: signal.getsignal(number) for number in _numbers()}
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
    try:
        _set_mask("SIG_UNBLOCK")  # signals_delayed() of a program that this one replaced may have blocked them
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: C code installed the handler, and Python cannot set it again
                signal.signal(number, handler)
        _active = False


@contextmanager
def signals_delayed() -> Iterator[None]:
    """Delay signals while this program replaces itself (``os.execve``).

    The system keeps blocked signals and the mask; the new program receives them in :func:`ending_at_signals`.
    """
    _set_mask("SIG_BLOCK")
    try:
        yield
    finally:
        _set_mask("SIG_UNBLOCK")


def signalled() -> tuple[str, int] | None:
    """Return the message and the exit code if a signal came, else None."""
    if not _received:
        return None
    name = signal.Signals(_received).name
    return f"stopped by {name}; no checkpoint was written at this point", 128 + _received


def raise_if_signalled() -> None:
    """Raise an error if a signal came.

    The error that the handler raised may be lost, in an import or in a callback of C code. Long loops call this.

    Raises:
        Signalled: a signal came.
    """
    if _received:
        raise Signalled


def report_stop(done: str = "") -> int:
    """Print the line of a program that a signal stopped, on rank 0; return its exit code.

    Args:
        done: text about the results so far, such as ``; images done: 2``.
    """
    message, code = signalled() or ("stopped by SIGINT", 128 + signal.SIGINT)
    if done.startswith("; "):
        from detection.foreign import printable

        message = f"stopped by {signal.Signals(code - 128).name}{printable(done)}"
    if is_first_rank():
        print(f"error: {message}", file=sys.stderr)
    return code


def is_first_rank() -> bool:
    """Return whether this process prints for all processes of a run on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in ENDING if hasattr(signal, name)]


def _set_mask(how: str) -> None:
    if hasattr(signal, "pthread_sigmask"):  # POSIX
        signal.pthread_sigmask(getattr(signal, how), _numbers())


def _end(number: int, frame: FrameType | None) -> None:
    global _received
    if _received:
        os._exit(128 + number)
    _received = number
    raise Signalled
