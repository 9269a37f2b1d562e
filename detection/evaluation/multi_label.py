"""Scores of classifiers that give an image several classes: average precision and F1 of each class, and their means.

n images   K classes
"""

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from detection.evaluation.classification import calibration
from detection.evaluation.image_scores import ImageScores

THRESHOLD = 0.5
"""Probability from which a class counts as predicted."""


class ScoredSeveral(NamedTuple):
    """What an evaluation keeps of some images."""

    indices: np.ndarray
    """(n,) int64, place of each image in its data set."""
    present: np.ndarray
    """(n, K) bool, the true classes."""
    scores: np.ndarray
    """(n, K) float32, probabilities by sigmoid."""
    losses: np.ndarray
    """(n,) float64."""


class MultiLabelEvaluator(ImageScores[ScoredSeveral]):
    """Collect the logits of images with several classes, and score them.

    Args:
        classes: names by label.
    """

    kept = ScoredSeveral

    def add(self, indices: Tensor, present: Tensor, logits: Tensor, losses: Tensor) -> None:
        """Add a batch; this does not synchronise with the device.

        Args:
            indices: (B,) int64, place of each image in its data set.
            present: (B, K) bool, the true classes.
            logits: (B, K) float.
            losses: (B,) float, loss of each image.
        """
        self._parts.append((indices, present, logits.float().sigmoid(), losses))

    def evaluate(self) -> dict[str, float]:
        """Return the scores as fractions; all values are NaN without images.

        Returns:
            ``loss``, and ``mAP``, the mean of the average precisions of all classes with images. At :data:`THRESHOLD`:
            ``F1`` over all classes and images together (micro), ``class_mean_F1`` over classes with images (macro),
            and ``exact``, the fraction of images whose classes are all right.
        """
        names = ("loss", "mAP", "F1", "class_mean_F1", "exact")
        if not self.state():
            return dict.fromkeys(names, math.nan)
        scored = self.state()[0]
        predicted = scored.scores >= THRESHOLD
        has = scored.present.any(axis=0)
        values = (
            scored.losses.mean(),
            _mean(average_precisions(scored.scores, scored.present)),
            f1(predicted.ravel()[:, None], scored.present.ravel()[:, None])[0],
            _mean(f1(predicted, scored.present)[has]),
            (predicted == scored.present).all(axis=1).mean(),
        )
        return {name: float(value) for name, value in zip(names, values, strict=True)}

    def report(self) -> dict[str, Any]:
        """Return all scores as plain values, for a JSON file."""
        size = len(self.classes)
        empty = ScoredSeveral(np.zeros(0), np.zeros((0, size), bool), np.zeros((0, size), np.float32), np.zeros(0))
        _, present, scores, _ = self.state()[0] if self.state() else empty
        predicted = scores >= THRESHOLD
        both = present & predicted
        average = average_precisions(scores, present)
        columns = f1(predicted, present)
        rows = []
        for label, name in enumerate(self.classes):
            counts = [int(marks[:, label].sum()) for marks in (present, predicted, both)]
            best, threshold = best_f1(scores[:, label], present[:, label])
            rows.append(
                {
                    "name": name,
                    "images": counts[0],
                    "predicted": counts[1],
                    "AP": _plain(average[label]),
                    "precision": counts[2] / counts[1] if counts[1] else None,
                    "recall": counts[2] / counts[0] if counts[0] else None,
                    "F1": _plain(columns[label]) if counts[0] else None,
                    "best_F1": _plain(best),
                    "best_threshold": _plain(threshold),
                }
            )
        return {
            "metrics": {name: _plain(value) for name, value in self.evaluate().items()},
            "images": len(present),
            "threshold": THRESHOLD,
            "classes": rows,
            "calibration": calibration(scores.ravel(), present.ravel()),
        }


def average_precisions(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the average precision of each class: the sum over scores of precision times the gain of recall.

    Images with one score count together, as in scikit-learn's ``average_precision_score``.

    Args:
        scores: (n, K) float.
        present: (n, K) bool.

    Returns:
        (K,) float64; NaN for a class without images.
    """
    found = np.full(scores.shape[1], math.nan)
    for label in np.flatnonzero(present.any(axis=0)):
        right, predicted, _ = _cumulated(scores[:, label], present[:, label])
        found[label] = (np.diff(right, prepend=0) / right[-1] * right / predicted).sum()
    return found


def best_f1(scores: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Return the largest F1 of a class over all thresholds, and the highest threshold that has it.

    Args:
        scores: (n,) float.
        present: (n,) bool.

    Returns:
        F1 and threshold; NaN for a class without images.
    """
    if not present.any():
        return math.nan, math.nan
    right, predicted, thresholds = _cumulated(scores, present)
    values = 2 * right / (predicted + right[-1])
    place = int(values.argmax())
    return float(values[place]), float(thresholds[place])


def f1(predicted: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the F1 of each column of (n, K) bool; 0 for a column that is empty in both."""
    total = predicted.sum(axis=0) + present.sum(axis=0)
    values: np.ndarray = 2 * (predicted & present).sum(axis=0) / np.maximum(total, 1)
    return values


def _cumulated(scores: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each distinct score from the highest, the images at or above it: right ones, all; and the score."""
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order], np.cumsum(present[order])
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return right[last], last + 1, ordered[last]


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
