"""Lightning's trainer, with what a run needs that no callback can do."""

from typing import Any

import lightning.pytorch
from lightning.pytorch.trainer.states import TrainerFn

from detection.engine.lightning_mends.pending_evaluations import run_pending_evaluation


class Trainer(lightning.pytorch.Trainer):
    """Knows the folder of its run, and runs an evaluation that a stopped run did not finish."""

    run_folder: str | None = None
    """The folder of all files of the run; on several ranks that of the first counts."""

    @property
    def log_dir(self) -> str | None:
        """The run's folder, whatever logs; None where nothing is written. All ranks must ask."""
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
    """Steps between two log lines, at least one."""
    return max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]  # Lightning sets it elsewhere
