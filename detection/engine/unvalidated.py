"""Training without a validation set: allowed, with what that means."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from detection.engine.errors import InputError


def why_unvalidated(config: Any) -> str | None:
    """The setting by which a run has no validation; None if it has one.

    Args:
        config: of the subcommand ``fit``.
    """
    if config.data.val is None:
        return "data.val null"
    if config.trainer.limit_val_batches == 0:
        return "trainer.limit_val_batches 0"
    return None


def check_unvalidated(why: str, early_stopping: int | None, callbacks: Sequence[Callback]) -> None:
    """Reject what waits for metrics that nobody measures.

    Args:
        why: as :func:`why_unvalidated` says.
        early_stopping: ``run.early_stopping``.
        callbacks: of the user.

    Raises:
        InputError: naming what waits.
    """
    waiting = ["run.early_stopping"] if early_stopping is not None else []
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and str(callback.monitor).startswith("val/"):
            waiting.append(f"{type(callback).__name__}'s monitor {callback.monitor}")
    if waiting:
        raise InputError(
            f"{' and '.join(waiting)} needs a validation, and {why} leaves none; give one, or leave it out"
        )


class Unvalidated(Callback):
    """Says once what a training without validation leaves.

    Args:
        why: as :func:`why_unvalidated` says.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        module.print(
            f"No validation ({self._why}): no AP is measured, best.ckpt is not written, and checkpoints/last.ckpt is "
            "the result"
        )
