"""The detections of the best evaluation of a run, kept for its report."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.engine.evaluating import Evaluation


class BestDetections(Callback):
    """Keeps the detections of the best evaluation of this start, from which the report is made at the end.

    Args:
        monitor: the metric that decides.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor, self._score = monitor, -math.inf
        self._kept: dict[str, Any] | None = None
        self._evaluation: Evaluation | None = None
        self.place: dict[str, int] = {}
        """``epoch`` and ``step`` of the evaluation that is kept."""

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        score = float(trainer.callback_metrics.get(self._monitor, math.nan))
        if self._kept is None or score > self._score:
            self._score = score if score > self._score else self._score
            self._evaluation = module.evaluations["val"]  # type: ignore[index,assignment]
            self._kept = self._evaluation.evaluator.snapshot()  # type: ignore[union-attr]
            self.place = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}

    @property
    def count(self) -> int:
        """How many detections are kept."""
        found = (self._kept or {}).get("found", {})
        return max((sum(len(one.scores) for one in images.values()) for images in found.values()), default=0)

    def restore(self) -> Evaluation:
        """Put the detections back into the evaluator that found them.

        Raises:
            ValueError: there was no evaluation.
        """
        if self._evaluation is None or self._kept is None:
            raise ValueError("this start of the run had no evaluation")
        self._evaluation.evaluator.reset()
        self._evaluation.evaluator.merge([self._kept])
        return self._evaluation
