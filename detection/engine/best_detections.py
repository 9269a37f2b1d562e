"""The detections of a run's best validation, kept in memory for the report."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.engine.evaluating import Evaluation


class BestDetections(Callback):
    """Keep the detections of the best validation since this process started, for the report at the end.

    Args:
        monitor: name of the metric whose highest value is best.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor, self._score = monitor, -math.inf
        self._kept: dict[str, Any] | None = None
        self._evaluation: Evaluation | None = None
        self.place: dict[str, int] = {}
        """``epoch`` and ``step`` of the validation whose detections are kept; empty before the first one."""

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        score = float(trainer.callback_metrics.get(self._monitor, math.nan))
        if self._kept is None or score > self._score:
            self._score = score if score > self._score else self._score
            evaluation: Evaluation = module.evaluations["val"]  # type: ignore[index,assignment]
            if evaluation.evaluator is None:  # a Semantic FPN has no detections
                return
            self._evaluation, self._kept = evaluation, evaluation.evaluator.snapshot()
            self.place = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}

    @property
    def count(self) -> int:
        """Number of kept detections, of boxes or masks, whichever is larger."""
        found = (self._kept or {}).get("found", {})
        return max((sum(len(one.scores) for one in images.values()) for images in found.values()), default=0)

    def restore(self) -> Evaluation:
        """Put the kept detections back into their evaluator, and return the evaluation.

        Raises:
            ValueError: there was no validation since this process started.
        """
        if self._evaluation is None or self._kept is None or self._evaluation.evaluator is None:
            raise ValueError("this start of the run had no evaluation")
        self._evaluation.evaluator.reset()
        self._evaluation.evaluator.merge([self._kept])
        return self._evaluation
