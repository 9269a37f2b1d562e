"""The scores of a classifier's best validation, kept in memory for the report."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.evaluation.classification import ClassificationEvaluator
from detection.evaluation.multi_label import MultiLabelEvaluator


class BestClasses(Callback):
    """Keep the scores of the best validation since this process started, for the report at the end.

    Args:
        monitor: name of the metric whose highest value is best.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor, self._score = monitor, -math.inf
        self._kept: list[Any] = []
        self._evaluator: ClassificationEvaluator | MultiLabelEvaluator | None = None
        self.place: dict[str, int] = {}
        """``epoch`` and ``step`` of the validation whose scores are kept; empty before the first one."""

    count = 0
    """Number of detections, which decides whether an interrupted run has time for a report: it always has."""

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        score = float(trainer.callback_metrics.get(self._monitor, math.nan))
        if self._evaluator is None or score > self._score:
            self._score = max(score, self._score) if score == score else self._score
            found: ClassificationEvaluator | MultiLabelEvaluator = module.evaluators["val"]  # type: ignore
            self._evaluator, self._kept = found, list(found.state())
            self.place = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}

    def restore(self) -> ClassificationEvaluator | MultiLabelEvaluator:
        """Put the kept scores back into their evaluator, and return it.

        Raises:
            ValueError: there was no validation since this process started.
        """
        if self._evaluator is None:
            raise ValueError("this start of the run had no evaluation")
        self._evaluator.merge([self._kept])
        return self._evaluator
