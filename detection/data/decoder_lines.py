"""Catch the lines that libjpeg, libpng and libtiff print about a damaged image, so that a warning can name the file.

These libraries write to the stderr of the process, not through Python. While a decoder runs, this module redirects
stderr to a file in memory, and then forwards all other output. Only Linux has such files (memfd). On other systems the
libraries print their lines as usual.
"""

import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_OF_A_LIBRARY = re.compile(
    rb"Corrupt JPEG data|Premature end of (?:JPEG|input) file|Invalid SOS parameters|Inconsistent progression sequence"
    rb"|Warning: unknown JFIF revision|Unknown Adobe color transform|Application transferred|Unsupported marker type"
    rb"|libpng (?:warning|error): |(?:TIFF|Fax|JPEG|ZIP|LZW|LZMA|ZSTD|PackBits|Thunder|OJPEG)\w*: "
    rb"|(?:tempfile\.tif|filename): "
)
"""How the libraries' lines begin. Pillow gives libtiff an invented file name for each TIFF."""


class Decoded(NamedTuple, Generic[T]):
    """The result of :func:`decoded`."""

    result: T
    lines: list[str]
    """The printed lines, without newlines."""


def decoded(decode: Callable[[], T]) -> Decoded[T]:
    """Run a decoder, and catch the lines that image libraries print to stderr.

    Several threads may decode at the same time. If a line appears then, each of these threads decodes its image again,
    alone, to find out which image caused the line. If ``decode`` raises an error, the lines are dropped.

    Args:
        decode: function that decodes one image; it may run twice.

    Raises:
        Exception: whatever ``decode`` raises.
    """
    found = _stderr.run(decode, alone=False)
    return found[0] if found[1] else _stderr.run(decode, alone=True)[0]


class _Stderr:
    """The stderr of this process, and the threads that decode."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        """Held by a thread that decodes alone."""
        self._change = threading.Condition()
        self._decoding = self._begun = 0
        """Number of threads that decode now; number of decodings begun since the start."""
        self._memory = self._own = -1
        """File descriptors: the file in memory, and a copy of the real stderr."""

    def run(self, decode: Callable[[], T], alone: bool) -> tuple[Decoded[T], bool]:
        """Return the decoded result, and whether its lines certainly belong to it."""
        if sys.platform != "linux" or fcntl is None or not hasattr(os, "memfd_create"):
            return Decoded(decode(), []), True
        if not alone:
            with self._gate:
                begin = self._begin()
            return self._between(decode, begin)
        with self._gate:
            with self._change:
                self._change.wait_for(lambda: self._decoding == 0)
            return self._between(decode, self._begin())

    def _between(self, decode: Callable[[], T], begin: tuple[int, int, bool]) -> tuple[Decoded[T], bool]:
        lines: list[str] = []
        others = False
        try:
            result = decode()
        finally:
            lines, others = self._end(*begin)
        return Decoded(result, lines), not (lines and others)

    def _begin(self) -> tuple[int, int, bool]:
        """Return the offset of the next line, the number of this decoding, and whether other threads decode."""
        with self._change:
            if self._decoding == 0:
                self._turn_to_memory()
            self._decoding += 1
            self._begun += 1
            return self._length(), self._begun, self._decoding > 1

    def _end(self, begin: int, number: int, others: bool) -> tuple[list[str], bool]:
        """Return the lines since :meth:`_begin`, and whether another thread decoded at the same time."""
        with self._change:
            length = self._length()
            found = os.pread(self._memory, length - begin, begin) if length > begin else b""
            self._decoding -= 1
            if self._decoding == 0:
                self._turn_back()
            self._change.notify_all()
            lines = [line.decode(errors="replace") for line in found.splitlines() if _OF_A_LIBRARY.match(line)]
            return lines, others or self._begun > number

    def _length(self) -> int:
        return os.fstat(self._memory).st_size if self._own >= 0 else 0

    def _turn_to_memory(self) -> None:
        try:
            self._own = os.dup(2)
        except OSError:  # the process has no stderr
            return
        if self._memory < 0:
            self._memory = os.memfd_create("stderr")
            fcntl.fcntl(self._memory, fcntl.F_SETFL, os.O_APPEND)
        os.dup2(self._memory, 2)

    def _turn_back(self) -> None:
        if self._own < 0:
            return
        os.dup2(self._own, 2)
        os.close(self._own)
        self._own = -1
        if length := os.fstat(self._memory).st_size:
            written = os.pread(self._memory, length, 0)
            os.ftruncate(self._memory, 0)
            rest = b"".join(line for line in written.splitlines(keepends=True) if not _OF_A_LIBRARY.match(line))
            if rest:
                os.write(2, rest)

    def before_fork(self) -> None:
        """Restore the real stderr for the child process."""
        self._change.acquire()
        if self._own >= 0:
            os.dup2(self._own, 2)

    def after_fork_in_parent(self) -> None:
        """Redirect stderr again in the parent process."""
        if self._own >= 0:
            os.dup2(self._memory, 2)
        self._change.release()

    def after_fork_in_child(self) -> None:
        """Reset the state in the child process: it has neither the parent's threads nor its redirection."""
        for file in (self._own, self._memory):
            if file >= 0:
                os.close(file)
        self.__init__()  # type: ignore[misc]


_stderr = _Stderr()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_stderr.before_fork,
        after_in_parent=_stderr.after_fork_in_parent,
        after_in_child=_stderr.after_fork_in_child,
    )
