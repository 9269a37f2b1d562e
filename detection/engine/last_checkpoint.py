"""``last.ckpt``: the checkpoint that a run continues from."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from detection.checkpoint_files import sweep
from detection.engine.errors import InputError
from detection.engine.lightning_mends.pending_evaluations import evaluates_now
from detection.engine.trainer import log_interval


class LastCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt`` up to date: before and after every validation, at the end, and every few minutes.

    Lightning's ``save_last`` is the last checkpoint that was saved for another reason, such as a better AP.

    Args:
        minutes: between two checkpoints within an epoch.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes, self._saved, self._time = minutes, -1, 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # all ranks must call it
        if stage == "fit" and trainer.is_global_zero and folder is not None:
            sweep(Path(folder) / "checkpoints")
        first = trainer.strategy.broadcast(str(trainer.ckpt_path))
        if first != str(trainer.ckpt_path):
            raise InputError(
                f"rank {trainer.global_rank} would begin from {trainer.ckpt_path}, rank 0 from {first}: "
                "is run.folder the same place on all nodes?"
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._saved, self._time = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        step = trainer.global_step
        # Between two steps only, as accumulated gradients are not saved; and all ranks must agree, which costs a stall.
        if (index + 1) % trainer.accumulate_grad_batches:
            return
        if evaluates_now(trainer):  # which may be stopped
            self.save(trainer)
        elif step % log_interval(trainer) == 0:
            due = time.monotonic() > self._time + 60 * self.minutes
            if trainer.strategy.broadcast(due):
                self.save(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._saved = -1  # this step may be saved as it was before its evaluation
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> str:
        """Save now, unless this step is saved; returns the path. All ranks must call it."""
        path = self.path(trainer)
        if path and self._saved != trainer.global_step:
            trainer.save_checkpoint(path, weights_only=False)
            self._saved, self._time = trainer.global_step, time.monotonic()
        return path

    def path(self, trainer: Trainer) -> str:
        """The path of the checkpoint; empty where nothing is saved. All ranks must call it."""
        folder = trainer.log_dir  # all ranks must call it
        if folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return ""
        return str(Path(folder) / "checkpoints" / "last.ckpt")
