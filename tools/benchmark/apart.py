"""Contestants in processes of their own: none inherits what another held or how another keeps its memory."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from types import MappingProxyType, TracebackType
from typing import Any

_kept: Any = None
"""In the process of its own: what was made there."""


class Apart:
    """An object that is made and lives in another process.

    Args:
        make: a class or function of a module; what it returns stays there.
        arguments: of ``make``.
        environment: variables that the process gets besides ours.

    Example:
        >>> with Apart(list, (1, 2)) as apart:  # doctest: +SKIP
        ...     apart("index", 2)
        1
    """

    def __init__(
        self, make: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        # Not forked: PyTorch's threads would be missing.
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            self._made = self._pool.submit(_make, make, arguments)  # which starts the process
        finally:
            os.environ.clear()
            os.environ.update(before)

    def __call__(self, method: str, *arguments: Any) -> Any:
        """What a method of the object returns or raises."""
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
