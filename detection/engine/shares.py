"""Measure the fraction of training time of each part of a step, on one step of every log interval."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from detection.engine.clock import Clock
from detection.engine.trainer import log_interval
from detection.structures import Batch


class Shares(Callback):
    """Log the fraction of time of each part of a step as ``train/share_PART``, and print all fractions at the end.

    The parts are ``data`` (waiting for images), ``transfer``, ``dense`` (backbone, pyramid and RPN head),
    ``proposals``, ``box_head``, ``mask_head``, ``keypoint_head``, ``backward`` and ``optimizer``. They add up to 1.
    """

    def __init__(self) -> None:
        self._clock: Clock | None = None
        self._measured = False
        self._sums: dict[str, float] = {}
        self._start = self._evaluated = self._evaluation_start = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._start, self._evaluated = time.monotonic(), 0.0

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Any) -> None:
        self._mark("backward")

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        self._mark("optimizer")

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        if self._clock is not None and not self._measured:
            self._close(module)
            self._measured = True
        if self._clock is not None and trainer.global_step % log_interval(trainer) == 0:
            self._log(module, self._clock.seconds())
            self._clock, self._measured = None, False
        completes = (index + 2) % trainer.accumulate_grad_batches == 0  # the next batch ends an optimizer step
        if self._clock is None and completes and not trainer.is_last_batch:
            self._clock = module.clock = Clock(module.model)  # type: ignore[assignment, arg-type]
            self._clock.__enter__()
            self._mark("data")

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._evaluation_start = time.monotonic()
        self._drop(module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._evaluated += time.monotonic() - self._evaluation_start

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._drop(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._drop(module)
        if not self._sums:
            return
        whole = sum(self._sums.values())
        parts = ", ".join(f"{part} {100 * seconds / whole:.0f}%" for part, seconds in self._sums.items())
        evaluation = self._evaluated / max(time.monotonic() - self._start, 1e-6)
        module.print(f"Time of a step: {parts}. Evaluation took {100 * evaluation:.0f}% of the training")

    def _mark(self, part: str) -> None:
        if self._clock is not None and not self._measured:
            self._clock(part)

    def _close(self, module: LightningModule) -> None:
        assert self._clock is not None
        self._clock.__exit__(None, None, None)
        module.clock = None  # type: ignore[assignment]

    def _drop(self, module: LightningModule) -> None:
        """Discard a measurement in progress, since other work than a step follows."""
        if self._clock is not None and not self._measured:
            self._close(module)
            self._clock = None

    def _log(self, module: LightningModule, seconds: dict[str, float]) -> None:
        whole = max(sum(seconds.values()), 1e-9)
        for part, passed in seconds.items():
            self._sums[part] = self._sums.get(part, 0.0) + passed
            module.log(f"train/share_{part.replace(' ', '_')}", passed / whole)
