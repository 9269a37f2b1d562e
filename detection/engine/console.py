"""``log.txt``: the lines that a training showed on the console, as text without terminal control codes."""

import re
import threading
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.engine.errors import user_message
from detection.engine.streams import Streams
from detection.foreign import printable
from detection.provenance import command_line

NAME = "log.txt"
CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]")
"""Control codes of terminals: colours, cursor movements, titles."""


class Lines:
    """Split a stream into lines as a terminal finally shows them: a carriage return overwrites the line."""

    def __init__(self) -> None:
        self._line, self._returned = "", False

    def feed(self, text: str) -> list[str]:
        """Add a part of the stream, and return the lines that are now complete."""
        complete = []
        for part in re.split(r"([\r\n])", CODES.sub("", text)):
            if part == "\n":
                line = self._line.rstrip()
                if line or not self._line:  # a progress bar writes a line of blanks to clear itself
                    complete.append(line)
                self._line, self._returned = "", False
            elif part == "\r":
                self._returned = True
            elif part:
                self._line, self._returned = ("" if self._returned else self._line) + part, False
        return complete


class Console:
    """Copy the output of this process into a file; keep the lines until the file is known."""

    def __init__(self) -> None:
        self._streams = Streams(lambda stream: _Copied(stream, self))
        self._lock = threading.RLock()
        self._waiting: list[str] = []
        self._file: TextIO | None = None

    def open(self) -> None:
        """Start to copy."""
        self._streams.replace()

    def close(self) -> None:
        """Stop copying, and close the file."""
        self._streams.restore()
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file, self._waiting = None, []

    def write_into(self, path: Path) -> None:
        """Write the kept lines and all later ones into a file; append to an existing file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self._file is None:
                self._file = open(path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115
                waiting, self._waiting = self._waiting, []
                self.write([f"# {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {command_line()}", *waiting])

    def write(self, lines: list[str]) -> None:
        """Write lines into the file, or keep them if there is no file yet."""
        with self._lock:
            if self._file is None:
                self._waiting += lines
                return
            with suppress(OSError):  # on a full disk, saving the checkpoint raises the error
                self._file.write("".join(f"{printable(line)}\n" for line in lines))
                self._file.flush()


class Log(Callback):
    """Write the console's lines, and the error that ends a run, into ``log.txt`` of the run's folder.

    Args:
        console: an open console.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # all ranks must call it
        if folder is not None and trainer.is_global_zero:
            self._console.write_into(Path(folder) / NAME)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        message, code = user_message(exception)
        if code is None:  # the command prints it after the console is closed
            message = "".join(traceback.format_exception(exception)).rstrip()
        self._console.write(f"error: {message}".splitlines())


class _Copied:
    """Write text to a stream and to the log."""

    def __init__(self, stream: TextIO, console: Console) -> None:
        self._stream, self._console, self._lines = stream, console, Lines()

    def write(self, text: str) -> int:
        written = self._stream.write(text)
        if lines := self._lines.feed(text):
            self._console.write(lines)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
