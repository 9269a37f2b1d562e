"""Show the progress of a run: a status line at the bottom of a terminal, or a line every 30 s in a log file."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer

from detection.engine import status
from detection.engine.pace import Pace, time_left
from detection.engine.screen import Screen
from detection.engine.status import Field, compose


class Progress(ProgressBar):
    """Measure the progress of a run; subclasses show it.

    Args:
        seconds: least time between two updates, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.is_enabled, self._seconds, self._last = True, seconds, -math.inf
        self._training, self._evaluating = Pace(), Pace()
        self._evaluation, self._began, self._lr = 0.0, 0.0, 0.0

    def show(self, fields: list[Field]) -> None:
        """Show these fields."""
        raise NotImplementedError

    def disable(self) -> None:
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # after the step, it is that of the next step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._training.tick(len(batch.images) * trainer.world_size)
        if self._is_due(index + 1 == trainer.num_training_batches):
            self.show(self._of_training(trainer))

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._training.pause()
        self._evaluating, self._began = Pace(), time.monotonic()

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not trainer.sanity_checking:
            self._evaluated(trainer, batch, _of_one(trainer.num_val_batches))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._evaluation = time.monotonic() - self._began

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._evaluated(trainer, batch, _of_one(trainer.num_test_batches))

    def on_predict_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._evaluated(trainer, batch, _of_one(trainer.num_predict_batches))

    def _evaluated(self, trainer: Trainer, batch: Any, batches: float) -> None:
        self._evaluating.tick(len(batch.images) * trainer.world_size)
        done = self._evaluating.count
        if not self._is_due(done == batches):
            return
        left = time_left(batches - done, self._evaluating.seconds)
        text = f"{done}/{batches:.0f}"
        doing = "predicting" if trainer.state.fn == "predict" else "evaluating"
        fields = [
            Field(0.5, f"{doing} {text}", f"{doing} {text}"),
            status.images(3, self._evaluating.images_per_second),
        ]
        if trainer.state.fn == "fit":
            fields.insert(0, place(trainer))
            left += time_left(*self._rest(trainer)) if self._training.count > 1 else math.nan
        self.show([*fields, status.remaining(1, left)])

    def _of_training(self, trainer: Trainer) -> list[Field]:
        losses = short_metrics(trainer)
        rest = time_left(*self._rest(trainer))
        for timer in trainer.callbacks:  # type: ignore[attr-defined]  # trainer.max_time
            if isinstance(timer, Timer) and (most := timer.time_remaining()) is not None:
                rest = min(most, rest) if math.isfinite(rest) else most
        done = trainer.global_step / steps(trainer)
        pace = self._training.images_per_second
        loss = losses.pop("loss", None)
        return status.training(place(trainer), done, loss, self._lr, pace, rest, losses, isinstance(self, Bar))

    def _rest(self, trainer: Trainer) -> tuple[float, float, float, float]:
        """Return remaining batches, seconds per batch, remaining evaluations, and seconds per evaluation."""
        batches = (steps(trainer) - trainer.global_step) * trainer.accumulate_grad_batches
        evaluations = 0.0
        if trainer.enable_validation and self._evaluation:
            every = float(trainer.val_check_batch or 0) * (trainer.check_val_every_n_epoch or 1)
            evaluations = math.ceil(batches / every) if math.isfinite(batches) and every else 0.0
        return batches, self._training.seconds, evaluations, self._evaluation

    def _is_due(self, last: bool) -> bool:
        now = time.monotonic()
        if not self.is_enabled or (now < self._last + self._seconds and not (last and isinstance(self, Bar))):
            return False
        self._last = now
        return True


class Bar(Progress):
    """Show progress in a line at the bottom of the terminal, below all other output."""

    def __init__(self, seconds: float = 0.5) -> None:
        super().__init__(seconds)
        self._screen = Screen(sys.stderr)

    def show(self, fields: list[Field]) -> None:
        self._screen.draw(compose(fields, self._screen.width()))

    def print(self, *args: Any, **kwargs: Any) -> None:
        print(*args, **kwargs, flush=True)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        super().setup(trainer, module, stage)
        if self.is_enabled:
            self._screen.open()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._screen.finish()

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._screen.finish()

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._screen.finish()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._screen.close()

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._screen.close()


class Lines(Progress):
    """Print progress as separate lines, since a progress bar would make log files unreadable."""

    def __init__(self, seconds: float = 30) -> None:
        super().__init__(seconds)

    def show(self, fields: list[Field]) -> None:
        self.print(compose(fields))

    def print(self, *args: Any, **kwargs: Any) -> None:
        print(*args, **kwargs, flush=True)


def place(trainer: Trainer) -> Field:
    """Return a field with the iteration if the run ends after a number of steps, else with the epoch and batch."""
    if trainer.max_steps >= 0:
        text = f"{trainer.global_step}/{trainer.max_steps}"
        return Field(0, f"iteration {text}", text)
    epochs, batches = trainer.max_epochs, trainer.num_training_batches
    batch = min(trainer.fit_loop.batch_idx + 1, batches)
    epoch = f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if epochs is not None and epochs >= 0 else "")
    if not math.isfinite(batches):
        return Field(0, epoch, epoch)
    return Field(0, f"{epoch}  batch {batch}/{batches}", f"{epoch} {100 * batch // batches}%")


def steps(trainer: Trainer) -> float:
    """Return the number of optimizer steps of the whole run; infinite for a run without an end."""
    return max(1.0, float(trainer.estimated_stepping_batches))


def short_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the training losses by short names; this synchronises with the device."""
    metrics = {name.removeprefix("train/"): v for name, v in trainer.callback_metrics.items() if "train/" in name}
    return {name.removeprefix("loss_"): float(v) for name, v in metrics.items() if name.startswith("loss")}


def _of_one(batches: Any) -> float:
    """Return the number of batches of the single loader, from Lightning's number or its list with one per loader."""
    return float(sum(batches)) if isinstance(batches, list) else float(batches)
