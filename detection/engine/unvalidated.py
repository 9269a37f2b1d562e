"""Check a training without validation, and print its consequences."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from detection.engine.errors import InputError


def why_unvalidated(config: Any) -> str | None:
    """Return the setting that disables validation, such as ``data.val null``; None if the run validates.

    Args:
        config: settings of the subcommand ``fit``.
    """
    if config.data.val is None:
        return "data.val null"
    if config.trainer.limit_val_batches == 0:
        return "trainer.limit_val_batches 0"
    return None


def check_unvalidated(why: str, early_stopping: int | None, callbacks: Sequence[Callback]) -> None:
    """Reject early stopping and callbacks that need metrics of a validation.

    Args:
        why: result of :func:`why_unvalidated`.
        early_stopping: value of ``run.early_stopping``.
        callbacks: callbacks of the user.

    Raises:
        InputError: a setting or callback needs a validation; the message names it.
    """
    waiting = ["run.early_stopping"] if early_stopping is not None else []
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and str(callback.monitor).startswith("val/"):
            waiting.append(f"{type(callback).__name__}'s monitor {callback.monitor}")
    if waiting:
        raise InputError(
            f"{' and '.join(waiting)} needs a validation, but {why} disables it; enable validation, or remove "
            f"{'it' if len(waiting) == 1 else 'them'}"
        )


class Unvalidated(Callback):
    """Print once what a training without validation does not do.

    Args:
        why: result of :func:`why_unvalidated`.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        module.print(
            f"No validation ({self._why}): no AP is measured, best.ckpt is not written, and checkpoints/last.ckpt is "
            "the result"
        )
