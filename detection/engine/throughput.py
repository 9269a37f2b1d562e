"""Measure the speed of a training, and the time that the model waits for images."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from detection.engine.trainer import log_interval
from detection.structures import Batch

MUCH_WAITING = 0.2
"""Fraction of the time spent waiting for images above which the run prints advice."""


class Throughput(Callback):
    """Log ``train/images_per_second`` over all devices, ``train/data_wait`` and ``train/lr``.

    ``data_wait`` is the fraction of the time in which the model waits for images. If it was above
    :data:`MUCH_WAITING`, the run prints advice at the end.
    """

    def __init__(self) -> None:
        self._images, self._since, self._lr = -1, 0.0, 0.0
        self._ended, self._waited = 0.0, 0.0
        self._total, self._total_waited = 0.0, 0.0

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        self._lr = optimizer.param_groups[0]["lr"]  # after the step, it is that of the next step

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._images = -1  # the time until the end of the next step does not count as training

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, index: int) -> None:
        if self._images >= 0:
            self._waited += time.monotonic() - self._ended

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        due = trainer.global_step % log_interval(trainer) == 0
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
