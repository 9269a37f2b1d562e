"""Replace the two output streams of this process temporarily, also in the handlers of ``logging``."""

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

NAMES = ("stdout", "stderr")


class Streams:
    """Wrap ``sys.stdout`` and ``sys.stderr`` between :meth:`replace` and :meth:`restore`.

    Args:
        wrap: function that returns the new stream for an old one.
    """

    def __init__(self, wrap: Callable[[TextIO], Any]) -> None:
        self._wrap = wrap
        self._before: dict[str, Any] = {}
        self._around: dict[str, Any] = {}
        self._handlers: list[tuple[Any, Any]] = []

    def replace(self) -> None:
        """Install the new streams; a second call has no effect."""
        if self._before:
            return
        self._before = {name: getattr(sys, name) for name in NAMES}
        self._around = {name: self._wrap(stream) for name, stream in self._before.items()}
        for name, stream in self._around.items():
            setattr(sys, name, stream)
        loggers = [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]
        for handler in {handler for logger in loggers for handler in logger.handlers}:
            for name, stream in self._before.items():
                if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                    self._handlers.append((handler, stream))
                    handler.setStream(self._around[name])

    def restore(self) -> None:
        """Restore the old streams, unless other code has replaced the new ones."""
        for name, stream in self._before.items():
            if getattr(sys, name) is self._around[name]:
                setattr(sys, name, stream)
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._before, self._around, self._handlers = {}, {}, []
