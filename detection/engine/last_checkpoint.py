"""Write ``last.ckpt``, the checkpoint from which a run resumes."""

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
    """Save ``checkpoints/last.ckpt`` before and after every validation, at the end, and every few minutes.

    Lightning's ``save_last`` would only repeat the last checkpoint with another reason, such as a better AP.

    Args:
        minutes: time between two checkpoints within an epoch, in minutes.
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
                f"rank {trainer.global_rank} would start from {trainer.ckpt_path}, rank 0 from {first}: "
                "is run.folder the same place on all nodes?"
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._saved, self._time = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        step = trainer.global_step
        # Only between two steps, since a checkpoint has no accumulated gradients. To agree, all ranks synchronise.
        if (index + 1) % trainer.accumulate_grad_batches:
            return
        if evaluates_now(trainer):  # a stop may interrupt the evaluation
            self.save(trainer)
        elif step % log_interval(trainer) == 0:
            due = time.monotonic() > self._time + 60 * self.minutes
            if trainer.strategy.broadcast(due):
                self.save(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._saved = -1  # the saved checkpoint of this step may be the one before its evaluation
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> str:
        """Save a checkpoint unless this step has one, and return the path; all ranks must call this method."""
        path = self.path(trainer)
        if path and self._saved != trainer.global_step:
            trainer.save_checkpoint(path, weights_only=False)
            self._saved, self._time = trainer.global_step, time.monotonic()
        return path

    def path(self, trainer: Trainer) -> str:
        """Return the path of the checkpoint, or "" if the run saves none; all ranks must call this method."""
        folder = trainer.log_dir  # all ranks must call it
        if folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return ""
        return str(Path(folder) / "checkpoints" / "last.ckpt")
