"""Record in a checkpoint that a stopped run did not finish an evaluation, and run it in the resumed run.

Lightning (2.6) skips the evaluation after the step of a checkpoint. The resumed run would not know its AP: a worse
``best.ckpt`` could replace a better one, and early stopping would count one evaluation less.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class ValidateAtEnd(Callback):
    """Validate after the last step: with a schedule in iterations, this is seldom the end of an epoch."""

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # makes Lightning validate before it ends


def evaluates_now(trainer: Trainer) -> bool:
    """Return whether an evaluation follows the last finished batch, by the trainer's settings."""
    loop: Any = trainer.fit_loop.epoch_loop  # type: ignore[attr-defined]
    return bool(trainer.enable_validation and loop._should_check_val_fx(trainer.fit_loop._data_fetcher))  # type: ignore[attr-defined]


def is_pending(trainer: Trainer, evaluated: int | None) -> bool:
    """Return whether an evaluation must follow the last batch and has not finished.

    Args:
        evaluated: index of the batch, counted over all epochs, after which the last evaluation finished.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    if evaluated == loop.total_batch_idx or loop.total_batch_idx < 0:
        return False
    return bool(loop._should_check_val_fx(trainer.fit_loop._data_fetcher))


def epoch_ends_with_evaluation(trainer: Trainer, epoch: int, batches: int) -> bool:
    """Return whether an evaluation follows the end of an epoch, by the trainer's settings.

    Args:
        epoch: number of the epoch, from 0.
        batches: number of batches of an epoch.
    """
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if every is None or (epoch + 1) % every or not isinstance(interval, int | float):
        return False
    between = interval if isinstance(interval, int) else max(1, int(batches * interval))
    return batches % between == 0


def run_pending_evaluation(trainer: Trainer) -> None:
    """Run the evaluation that the checkpoint records as unfinished, before the first step.

    Callbacks, metrics and checkpoints get the same state as they would have had in the stopped run.
    """
    module: Any = trainer.lightning_module
    if not getattr(module, "evaluation_due", False) or not trainer.enable_validation:
        return
    module.evaluation_due = False
    module.print(f"The stopped run did not finish its evaluation after step {trainer.global_step}: it runs now")
    loop: Any = trainer.fit_loop.epoch_loop
    with _counted_as_completed(loop.batch_progress):
        loop.val_loop.restarting = False
        loop.val_loop.batch_progress.reset()
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True


@contextmanager
def _counted_as_completed(batches: Any) -> Iterator[None]:
    """Count the last batch as completed inside the context, as Lightning does in evaluations; then undo it."""
    counts = [count for count in (batches.total, batches.current) if count.completed < count.processed]
    for count in counts:
        count.completed += 1
    try:
        yield
    finally:
        for count in counts:
            count.completed -= 1
