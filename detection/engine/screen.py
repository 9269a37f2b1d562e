"""A line that stays at the bottom of a terminal, while whatever is printed stands above it."""

import os
import threading
from contextlib import suppress
from typing import Any, TextIO

from detection.engine.streams import Streams


class Screen:
    """One changing line on a stream, and the process's two output streams led around it.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._shown, self._at_start = stream, "", True
        self._lock = threading.RLock()  # a thread may print, too
        self._streams = Streams(lambda stream: _Above(stream, self))

    def width(self) -> int:
        """Characters that fit; a terminal breaks a line that fills its last column."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            columns = 0
        return (columns or 80) - 1

    def draw(self, line: str) -> None:
        """Show this line instead of the last one."""
        with self._lock:
            start = "" if self._at_start else "\n"
            self._put(f"{start}\r{line}{' ' * (len(self._shown) - len(line))}\r{line}")
            self._shown, self._at_start = line, True

    def finish(self) -> None:
        """Leave the line as it is and go to the next."""
        with self._lock:
            if self._shown:
                self._put("\n")
            self._shown = ""

    def clear(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._shown:
                echoed = min(len(self._shown) + 2, self.width())  # ^C
                self._put(f"\r{' ' * echoed}\r")
            self._shown = ""

    def above(self, stream: TextIO, text: str) -> None:
        """Write to a stream; on a terminal in place of the line, which comes back with the next :meth:`draw`."""
        with self._lock:
            if text and stream.isatty():
                self.clear()
                self._at_start = text.endswith("\n")
            stream.write(text)
            stream.flush()

    def open(self) -> None:
        """Lead ``sys.stdout``, ``sys.stderr`` and what is logged there around the line, until :meth:`close`."""
        self._streams.replace()

    def close(self) -> None:
        """Give the streams back, on a line of their own."""
        self.finish()
        self._streams.restore()

    def _put(self, text: str) -> None:
        with suppress(OSError):  # the terminal was closed; the run is worth more than its line
            self._stream.write(text)
            self._stream.flush()


class _Above:
    """A stream whose text stands above the line."""

    def __init__(self, stream: TextIO, screen: Screen) -> None:
        self._stream, self._screen = stream, screen

    def write(self, text: str) -> int:
        self._screen.above(self._stream, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
