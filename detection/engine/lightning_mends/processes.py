"""Signals and ranks: handlers that do not wait for lost ranks, and ends that say why.

Imports Lightning late, as :mod:`detection.cli` imports this file before all that takes long.
"""

import sys
from collections.abc import Callable
from typing import Any


def keep_signal_handlers_away(trainer: Any) -> None:
    """Let Lightning install no signal handlers: its handlers wait for ranks that may be gone."""
    connector = getattr(trainer, "_signal_connector", None)
    if connector is not None:
        connector.register_signal_handlers = _do_nothing


def observe_children_by(observer: Callable[[list[Any]], None]) -> None:
    """Let another function watch the ranks that Lightning starts.

    Lightning's own looks every 5 s, and silently kills all ranks when one has ended.

    Args:
        observer: takes the processes (``subprocess.Popen``), and returns at once.
    """
    from lightning.pytorch.strategies.launchers import subprocess_script

    if hasattr(subprocess_script, "_launch_process_observer"):
        subprocess_script._launch_process_observer = observer  # type: ignore[assignment]


def leave_process_group() -> None:
    """Leave the group of processes. Lightning leaves NCCL's alone; gloo's threads can abort the end of Python."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def hidden_error(error: BaseException) -> BaseException:
    """The error of a loader's start, which Lightning hides behind its own; other errors as they are."""
    hidden = error.__context__ if "iter(combined_loader)" in str(error) else None
    return error if hidden is None else hidden


def _do_nothing() -> None:
    pass
