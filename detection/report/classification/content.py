"""What the report of a classifier has: its numbers with intervals, and the wrong images with the largest loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from detection.evaluation.class_samples import Judged, OneClass, SeveralClasses, spread
from detection.evaluation.classification import Scored
from detection.evaluation.multi_label import ScoredSeveral

SCORES = "scores.csv"
"""File with a score for each image and class; a multi-label classifier's comparison needs it, and TRUTH."""
TRUTH = "truth.csv"
PREDICTIONS = "predictions.csv"
"""File with the prediction for each image; a comparison needs it, if an image has one class."""


def judged_of(scored: Scored | ScoredSeveral, classes: int) -> Judged:
    """Return the true and the predicted classes of an evaluation, for bootstrap samples.

    Args:
        scored: what an evaluator kept.
        classes: K.
    """
    if isinstance(scored, ScoredSeveral):
        return SeveralClasses(scored.present, scored.scores)
    hits = scored.best == scored.labels[:, None]
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, scored.best.shape[1] + 1)
    return OneClass(scored.labels, ranks, classes)


def report_of(found: Mapping[str, Any], judged: Judged, resamplings: int) -> dict[str, Any]:
    """Return the report of an evaluation: ``numbers`` with standard errors, ``loss``, classes and all else.

    Args:
        found: report of the evaluator.
        judged: its images.
        resamplings: bootstrap samples for the standard errors.
    """
    errors, of_classes = spread(judged, resamplings)
    numbers = judged.numbers(np.ones(len(judged)))
    classes = [row | {"error": error} for row, error in zip(found["classes"], of_classes.tolist(), strict=True)]
    rest = {key: value for key, value in found.items() if key not in ("metrics", "classes")}
    measured = {name: {"value": value, "error": errors[name]} for name, value in numbers.items()}
    return {"numbers": measured, "loss": found["metrics"]["loss"], "classes": classes, **rest}
