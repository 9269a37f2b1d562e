"""Lightning's trainer, with two additions that a callback cannot make."""

from typing import Any

import lightning.pytorch
from lightning.pytorch.trainer.states import TrainerFn

from detection.engine.lightning_mends.pending_evaluations import run_pending_evaluation


class Trainer(lightning.pytorch.Trainer):
    """Use the folder of the run as ``log_dir``, and run an evaluation that a stopped run did not finish."""

    run_folder: str | None = None
    """Folder for all files of the run; with several ranks, all use the value of rank 0."""

    @property
    def log_dir(self) -> str | None:
        """Folder of the run, with any loggers; None if the run writes no files. All ranks must read it."""
        if self.run_folder is None:
            return super().log_dir
        folder = None if self.fast_dev_run else self.run_folder  # type: ignore[attr-defined]
        found: str | None = self.strategy.broadcast(folder)
        return found

    def _run_stage(self) -> Any:
        if self.state.fn == TrainerFn.FITTING:
            run_pending_evaluation(self)
        return super()._run_stage()


def log_interval(trainer: lightning.pytorch.Trainer) -> int:
    """Return the number of steps between two log entries, at least 1."""
    return max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]  # Lightning sets it elsewhere
