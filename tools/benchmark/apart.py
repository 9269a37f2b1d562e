"""Run each contestant in its own process, so that memory and settings of one do not affect another."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from types import MappingProxyType, TracebackType
from typing import Any

_kept: Any = None
"""The object of this process, in a new process only."""


class Apart:
    """An object in another process.

    Args:
        make: a class or function at the top level of a module, which makes the object in the other process.
        arguments: arguments of ``make``.
        environment: additional environment variables of the process.

    Example:
        >>> with Apart(list, (1, 2)) as apart:  # doctest: +SKIP
        ...     apart("index", 2)
        1
    """

    def __init__(
        self, make: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        # Spawn, not fork: a forked process would lack PyTorch's threads.
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            self._made = self._pool.submit(_make, make, arguments)  # starts the process
        finally:
            os.environ.clear()
            os.environ.update(before)

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object; return its result or raise its exception."""
        self._made.result()
        return self._pool.submit(_call, method, arguments).result()

    def __enter__(self) -> "Apart":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _make(make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    global _kept
    _kept = make(*arguments)


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_kept, method)(*arguments)
