"""Keep a status line at the bottom of a terminal, and print all other output above it."""

import os
import threading
from contextlib import suppress
from typing import Any, TextIO

from detection.engine.streams import Streams


class Screen:
    """Draw one changing line on a stream, and print the output of the process above it.

    Args:
        stream: output stream of a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._shown, self._at_start = stream, "", True
        self._lock = threading.RLock()  # a thread may print, too
        self._streams = Streams(lambda stream: _Above(stream, self))

    def width(self) -> int:
        """Return the number of characters that fit: one less than the columns; terminals may break a full line."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            columns = 0
        return (columns or 80) - 1

    def draw(self, line: str) -> None:
        """Replace the line by a new one."""
        with self._lock:
            start = "" if self._at_start else "\n"
            self._put(f"{start}\r{line}{' ' * (len(self._shown) - len(line))}\r{line}")
            self._shown, self._at_start = line, True

    def finish(self) -> None:
        """Keep the line on the terminal, and move the cursor to the next one."""
        with self._lock:
            if self._shown:
                self._put("\n")
            self._shown = ""

    def clear(self) -> None:
        """Erase the line."""
        with self._lock:
            if self._shown:
                echoed = min(len(self._shown) + 2, self.width())  # ^C
                self._put(f"\r{' ' * echoed}\r")
            self._shown = ""

    def above(self, stream: TextIO, text: str) -> None:
        """Write text to a stream; on a terminal, erase the line first, until the next :meth:`draw`."""
        with self._lock:
            if text and stream.isatty():
                self.clear()
                self._at_start = text.endswith("\n")
            stream.write(text)
            stream.flush()

    def open(self) -> None:
        """Print ``sys.stdout``, ``sys.stderr`` and log messages above the line until :meth:`close`."""
        self._streams.replace()

    def close(self) -> None:
        """Finish the line, and restore the streams."""
        self.finish()
        self._streams.restore()

    def _put(self, text: str) -> None:
        with suppress(OSError):  # a closed terminal must not stop the run
            self._stream.write(text)
            self._stream.flush()


class _Above:
    """Write text to a stream above the line."""

    def __init__(self, stream: TextIO, screen: Screen) -> None:
        self._stream, self._screen = stream, screen

    def write(self, text: str) -> int:
        self._screen.above(self._stream, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
