"""What happens around the steps: the end of training, losses that are not numbers, speed and metrics.

These are added in code, so that a ``trainer.callbacks`` list in a config does not switch them off.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from detection.checkpoint import sweep
from detection.documents import read_json
from detection.engine.errors import InputError, lost_rank
from detection.engine.saving import checked_lines, restore_lines
from detection.foreign import printable
from detection.memory import begin_training, go_on_training
from detection.provenance import checksum, software
from detection.structures import IGNORE, Batch
from detection.wording import plural


class ValidateAtEnd(Callback):
    """Validate after the last step, which a schedule in iterations seldom puts at the end of an epoch."""

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # asks Lightning for a validation before it leaves


class FirstStep(Callback):
    """Keeps a processor's memory otherwise in the first step than in all others.

    When it begins, workers have started; they take no steps.

    Args:
        largest: bytes of the largest tensors of a step.
    """

    def __init__(self, largest: float) -> None:
        self.largest, self.over = largest, False

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        if not self.over and module.device.type == "cpu":
            begin_training()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.global_step and not self.over and module.device.type == "cpu":
            self.over = True
            go_on_training(self.largest)


MUCH_WAITING = 0.2
"""A run whose model waited for images a larger share of its time is told what to do."""


class Throughput(Callback):
    """Logs ``train/images_per_second`` over all devices, ``train/data_wait`` and ``train/lr``.

    The second is the share of the time in which the model waited for images; at the end a run that waited much says so.
    """

    def __init__(self) -> None:
        self._images, self._since, self._lr = -1, 0.0, 0.0
        self._ended, self._waited = 0.0, 0.0
        self._total, self._total_waited = 0.0, 0.0

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        self._lr = optimizer.param_groups[0]["lr"]  # later it is already the next step's

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._images = -1  # what passed until the next step is not the training's time

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, index: int) -> None:
        if self._images >= 0:
            self._waited += time.monotonic() - self._ended

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        due = trainer.global_step % _log_interval(trainer) == 0
        if due:
            module.log("train/lr", self._lr)
        now = self._ended = time.monotonic()
        if self._images < 0:
            self._images, self._since, self._waited = 0, now, 0.0
            return
        self._images += len(batch.images) * trainer.world_size
        if due:
            passed = max(now - self._since, 1e-6)
            module.log("train/images_per_second", self._images / passed)
            module.log("train/data_wait", self._waited / passed)
            self._total, self._total_waited = self._total + passed, self._total_waited + self._waited
            self._images, self._since, self._waited = 0, now, 0.0

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        share = self._total_waited / max(self._total, 1e-6)
        if share > MUCH_WAITING:
            module.print(
                f"The model waited for images {100 * share:.0f}% of the time: more data.workers, smaller files on a "
                "faster disk, or fewer data.augment would speed this up"
            )


class LastCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt`` up to date: before and after every validation, at the end, and every few minutes.

    Lightning's ``save_last`` is the last checkpoint that was saved for another reason, such as a better AP.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes, self._saved, self._time = minutes, -1, 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # asks all ranks
        if stage == "fit" and trainer.is_global_zero and folder is not None:
            sweep(Path(folder) / "checkpoints")
        first = trainer.strategy.broadcast(str(trainer.ckpt_path))
        if first != str(trainer.ckpt_path):
            raise InputError(
                f"rank {trainer.global_rank} would begin from {trainer.ckpt_path}, the first rank from {first}: "
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
        if _evaluates_now(trainer):  # which may be stopped
            self.save(trainer)
        elif step % _log_interval(trainer) == 0:
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
        """Save now, unless this step is saved; all ranks must call it. Where the checkpoint is."""
        path = self.path(trainer)
        if path and self._saved != trainer.global_step:
            trainer.save_checkpoint(path, weights_only=False)
            self._saved, self._time = trainer.global_step, time.monotonic()
        return path

    def path(self, trainer: Trainer) -> str:
        """Where the checkpoint is; empty where nothing is saved. All ranks must call it."""
        folder = trainer.log_dir  # asks all ranks
        if folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return ""
        return str(Path(folder) / "checkpoints" / "last.ckpt")


class TellPlace(Callback):
    """Adds to an error in training on which rank, at which step and on which images it happened."""

    def __init__(self) -> None:
        self._ids: Any = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, index: int) -> None:
        self._ids = batch.image_ids

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._ids = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if self._ids is not None:
            ids = ", ".join(str(image_id) for image_id in self._ids.tolist() if image_id != IGNORE)
            place = f"rank {trainer.global_rank}, step {trainer.global_step}, images with id {ids}"
            exception.add_note(place)
            if trainer.world_size > 1 and not lost_rank(exception):
                # At once: the other ranks fail of it too, and the first to be noticed ends all.
                what = f"{place}: {type(exception).__name__}: {exception}"
                print(f"error on {printable(what)}", file=sys.stderr, flush=True)


class StopEarly(EarlyStopping):
    """Lightning's, which says that it stops, and why; a resumed run counts on from the run that was stopped.

    It counts right after an evaluation, so that the checkpoints which follow have the count.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__(monitor, patience=patience, mode="max", check_finite=False, check_on_train_epoch_end=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The count, but not the patience: that of this run's settings counts."""
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


class RunRecord(Callback):
    """``run.json`` in the run's folder: for each start of it the command, versions, commit, devices and data."""

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # asks all ranks
        if not trainer.is_global_zero or folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        record = {
            **software(),
            "devices": f"{trainer.world_size} x {module.device.type}, precision {trainer.precision}",
            "data": {
                split: {
                    "annotations": str(annotations.path),
                    "sha256": checksum(annotations.path),
                    "images": len(annotations),
                    "objects": annotations.num_objects - annotations.num_crowds,
                    "crowds": annotations.num_crowds,
                }
                for split, annotations in data.annotations.items()
            },
        }
        path = Path(folder) / "run.json"
        try:
            earlier = list(read_json(path)["starts"])
        except (ValueError, KeyError, TypeError):
            earlier = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"starts": [*earlier, record]}, indent=1), encoding="utf-8")


class MetricsFile(Callback):
    """Appends a line to ``metrics.json`` in the run's folder at every evaluation, for other programs to read.

    Checkpoints hold the lines of all evaluations before them, so that a resumed run has those of one that was never
    stopped.
    """

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._resumed = False

    def state_dict(self) -> dict[str, Any]:
        return {"lines": list(self._lines)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._lines, self._resumed = checked_lines(state_dict["lines"]), True

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # asks all ranks
        known = self._resumed or trainer.ckpt_path is None  # older checkpoints hold no lines
        if not known or folder is None or not trainer.is_global_zero:
            return
        if kept := restore_lines(Path(folder) / "metrics.json", self._lines):
            module.print(f"metrics.json had evaluations that this checkpoint does not know: they are in {kept}")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._append(trainer, "val/")

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._append(trainer, "test/")

    def _append(self, trainer: Trainer, prefix: str) -> None:
        folder = trainer.log_dir  # asks all ranks
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        if trainer.is_global_zero and folder is not None:
            line: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            line |= {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            if trainer.state.fn == "fit":
                self._lines.append(line)
            Path(folder).mkdir(parents=True, exist_ok=True)
            with open(Path(folder) / "metrics.json", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _evaluates_now(trainer: Trainer) -> bool:
    """Whether an evaluation follows the batch that is done."""
    loop: Any = trainer.fit_loop.epoch_loop  # type: ignore[attr-defined]
    return bool(trainer.enable_validation and loop._should_check_val_fx(trainer.fit_loop._data_fetcher))  # type: ignore[attr-defined]


def _log_interval(trainer: Trainer) -> int:
    return max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]
