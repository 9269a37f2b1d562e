"""Receive signals while steps run: acknowledge them at once, and store them until the run can stop.

Python calls a handler only between two of its own instructions, but an operation of PyTorch may take seconds. The
system writes each signal's number into a pipe at once. A thread reads it, prints a message, and ends the process at a
second Ctrl-C.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from detection.engine.startup import is_first_rank

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
AGAIN = 0.5
"""Seconds within which a second Ctrl-C is ignored: a terminal and programs such as ``uv run`` both send the first."""


class Listener:
    """Receive signals between :meth:`begin` and :meth:`end`.

    Args:
        announcement: function that returns the message for the first signal.
        quit_now: function that ends the process, called at a second Ctrl-C.
    """

    def __init__(self, announcement: Callable[[], str], quit_now: Callable[[], None]) -> None:
        self.received = 0
        self._announcement, self._quit = announcement, quit_now
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._interrupted, self._answered = 0.0, False

    def begin(self) -> None:
        """Install the signal handlers, in the main thread only: Python allows it in no other thread."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self.received, self._interrupted, self._answered = 0, 0.0, False
        self._pipe = os.pipe()
        if hasattr(os, "set_blocking"):  # on Windows from Python 3.12 on; only a full pipe would block
            with suppress(OSError):
                os.set_blocking(self._pipe[1], False)
        self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, args=[self._pipe[0]], name="signals", daemon=True)
        self._thread.start()

    def end(self, leaving: bool = False) -> None:
        """Restore the previous handlers, or ignore all later signals.

        Args:
            leaving: the process ends, and ignores signals from now on.
        """
        if self._pipe is None:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if leaving else handler)
        os.write(self._pipe[1], b"\0")  # ends the thread, which closes the other end
        self._thread.join(1)  # its message must come before those of the end
        os.close(self._pipe[1])
        self._before, self._pipe = {}, None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

    def _answer(self, pipe: int) -> None:
        while (number := os.read(pipe, 1)) not in (b"", b"\0"):
            if number[0] in SIGNALS:
                self._take(number[0], time.monotonic())
        os.close(pipe)

    def _take(self, number: int, now: float) -> None:
        """Print a message for the first signal; end at a Ctrl-C more than ``AGAIN`` seconds after the first."""
        if number == signal.SIGINT:
            if self._interrupted and now > self._interrupted + AGAIN:
                self._quit()
            self._interrupted = self._interrupted or now
        first, self._answered = not self._answered, True
        if first and is_first_rank():
            print(f"{signal.Signals(number).name}: {self._announcement()}", file=sys.stderr, flush=True)


def leave_at_once(message: str, code: int) -> None:
    """Kill the workers of this process and end it immediately; any thread may call this function."""
    if is_first_rank():
        with suppress(OSError, ValueError):
            print(f"error: {message}", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def ignore_signals() -> None:
    """Ignore signals in a worker of a loader, so that it delivers images until the training ends it.

    SLURM, systemd, ``timeout`` and terminals signal all processes of a run. In PyTorch, a SIGTERM that does not come
    from the training ends a worker. The training would then fail without its worker instead of saving a checkpoint.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _listen_no_more() -> None:
    """Disconnect a forked process from the pipe: its signals do not concern the training."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_listen_no_more)
