"""Early stopping that prints its reason, and that continues its count in a resumed run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from detection.wording import plural


class StopEarly(EarlyStopping):
    """Stop after a number of validations without a better AP, and print the reason; a resumed run continues the count.

    The callback counts directly after each validation, so that the following checkpoints contain the count.

    Args:
        monitor: name of the metric, such as ``val/AP``.
        patience: number of validations without a better value.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__(monitor, patience=patience, mode="max", check_finite=False, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count, but keep the patience of this run's settings."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        if current.isnan():  # a validation set without objects; Lightning would count it as no better
            return False, None
        stops, reason = super()._evaluate_stopping_criteria(current)
        if stops:
            rank_zero_info(
                f"Stopped early: {self.monitor} has not been better in {plural(self.patience, 'validation')}"
            )
        return stops, reason


class StayStopped(Callback):
    """Stop a resumed run that early stopping had already ended."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        kept_on = (EarlyStoppingReason.NOT_STOPPED, EarlyStoppingReason.PATIENCE_EXHAUSTED)
        for callback in trainer.early_stopping_callbacks:
            if callback.wait_count >= callback.patience or callback.stopping_reason not in kept_on:
                trainer.should_stop = True
                module.print(
                    f"Stopped early before: {callback.monitor} was not better in "
                    f"{plural(callback.wait_count, 'validation')}"
                )
