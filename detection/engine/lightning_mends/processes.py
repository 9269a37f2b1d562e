"""Signals and ranks: do not wait for lost ranks, and report why a rank ended.

This file imports Lightning inside of functions, since :mod:`detection.cli` imports it before all slow imports.
"""

import sys
from collections.abc import Callable
from typing import Any


def keep_signal_handlers_away(trainer: Any) -> None:
    """Prevent Lightning from installing signal handlers: its handlers wait for ranks that may be lost."""
    connector = getattr(trainer, "_signal_connector", None)
    if connector is not None:
        connector.register_signal_handlers = _do_nothing


def observe_children_by(observer: Callable[[list[Any]], None]) -> None:
    """Replace Lightning's function that watches the ranks it starts.

    Lightning's own function checks every 5 s, and silently kills all ranks when one has ended.

    Args:
        observer: function that gets the processes (``subprocess.Popen``), and returns at once.
    """
    from lightning.pytorch.strategies.launchers import subprocess_script

    if hasattr(subprocess_script, "_launch_process_observer"):
        subprocess_script._launch_process_observer = observer  # type: ignore[assignment]


def leave_process_group() -> None:
    """Destroy the process group if there is one.

    Lightning destroys only that of NCCL. Threads of gloo can abort the shutdown of Python.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def hidden_error(error: BaseException) -> BaseException:
    """Return the error at the start of a loader that Lightning hides behind its own; other errors unchanged."""
    hidden = error.__context__ if "iter(combined_loader)" in str(error) else None
    return error if hidden is None else hidden


def _do_nothing() -> None:
    pass
