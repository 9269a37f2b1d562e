"""Detect a diverging loss: report it once with its images, and end the run if the loss remains too high.

A learning rate that is too high seldom gives NaN. More often the loss rises to thousands or millions and remains there
for the rest of the run, while every number is finite.
"""

import sys
from collections import deque
from statistics import median
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from detection.engine.errors import NonFiniteError
from detection.engine.nonfinite import StepRecorder, listed_ids
from detection.engine.trainer import log_interval
from detection.structures import Batch

FACTOR = 10.0
"""A loss is too high if it is above ``FACTOR`` times the median of the normal losses, and above ``LEAST``."""
LEAST = 10.0
"""No loss up to this value is too high. An untrained detector of 1000 classes starts at 9, and if few images have
objects, the median is not informative."""
BASIS = 3
"""Number of first losses that count as normal without a comparison."""
FIRST = 20
"""Number of first steps without a report: the losses of a new detector still vary widely."""
WINDOW = 200
"""Number of normal losses in the running median."""
STAYS = 50
"""The run ends if the median of this many last losses is too high."""

REMEDY = "try a lower model.optimizer.lr, a longer model.schedule.warmup or a lower trainer.gradient_clip_val"


class LossWatch:
    """Compare each loss with the running median of the normal ones.

    A loss that is too high never counts as normal, so that a permanently high loss cannot raise the median.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.reported = False
        self.healthy: deque[float] = deque(maxlen=WINDOW)
        self.recent: deque[float] = deque(maxlen=STAYS)

    def observe(self, loss: float) -> Literal["fine", "report", "stop"]:
        """Add the next loss, which must be finite, and return whether to report it or to stop the run."""
        self.steps += 1
        self.recent.append(loss)
        if len(self.healthy) < BASIS or not self._too_high(loss):
            self.healthy.append(loss)
            return "fine"
        if len(self.recent) == STAYS and self._too_high(median(self.recent)):
            return "stop"
        if self.reported or self.steps <= FIRST:
            return "fine"
        self.reported = True
        return "report"

    @property
    def usual(self) -> float:
        """The median of the normal losses."""
        return median(self.healthy)

    def state(self) -> dict[str, Any]:
        """Return the state as plain values for a checkpoint."""
        return {
            "steps": self.steps,
            "reported": self.reported,
            "healthy": list(self.healthy),
            "recent": list(self.recent),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`state` returned."""
        self.steps, self.reported = int(state["steps"]), bool(state["reported"])
        self.healthy = deque(map(float, state["healthy"]), maxlen=WINDOW)
        self.recent = deque(map(float, state["recent"]), maxlen=STAYS)

    def _too_high(self, loss: float) -> bool:
        return loss > max(LEAST, FACTOR * self.usual)


class WatchLoss(StepRecorder):
    """Report a loss that is far above its running median; end the run if it remains there.

    Synchronising with a GPU stalls it. On a GPU, this callback therefore checks the losses only every
    ``log_every_n_steps``, as :class:`~detection.engine.nonfinite.StopAtNonFinite` does.
    """

    subfolder = "diverged"

    def __init__(self) -> None:
        self._watch = LossWatch()
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Any]:
        return self._watch.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._watch.load(state_dict)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        terms: dict[str, Tensor] = outputs["terms"]
        self._pending.append((trainer.global_step, torch.stack(list(terms.values())), batch.image_ids))
        interval = log_interval(trainer)
        if module.device.type != "cpu" and len(self._pending) < interval:
            return
        pending, self._pending = self._pending, []
        values = torch.stack([losses for _, losses, _ in pending]).float().cpu().tolist()
        for (step, _, ids), losses in zip(pending, values, strict=True):
            loss = sum(losses)
            if loss != loss or loss == float("inf"):
                continue  # another callback ends or skips such a step
            verdict = self._watch.observe(loss)
            if verdict != "fine":
                shown = batch if step == trainer.global_step else None
                self._write(trainer, module, step, ids, dict(zip(terms, losses, strict=True)), {}, shown)
                self._report(trainer, module, verdict, step, loss, ids)

    def _report(
        self, trainer: Trainer, module: LightningModule, verdict: str, step: int, loss: float, ids: Tensor
    ) -> None:
        usual = self._watch.usual
        what = f"step {step}: loss {loss:.3g} is {loss / usual:.3g} times its running median of {usual:.3g}"
        where = f"on the images with id {listed_ids(ids)}"
        if verdict == "stop":
            raise NonFiniteError(f"{what}, as most of the last {STAYS} were; now {where}. Training diverged: {REMEDY}")
        message = f"{what}, {where}; check their annotations, or {REMEDY}. The run ends if the loss remains there"
        if trainer.is_global_zero:
            module.print(message)
        else:
            print(f"rank {trainer.global_rank}, {message}", file=sys.stderr, flush=True)
