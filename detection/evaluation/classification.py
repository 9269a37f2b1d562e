"""Scores of image classifiers: top-1 and top-5 accuracy, accuracy of each class, confusion matrix, calibration.

n images   K classes
"""

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from detection.evaluation.image_scores import ImageScores

MOST = 5
"""Number of classes of highest score that an image keeps."""
BINS = 15
"""Ranges of confidence for the calibration (Guo et al. 2017, "On calibration of modern neural networks")."""


class Scored(NamedTuple):
    """What an evaluation keeps of some images."""

    indices: np.ndarray
    """(n,) int64, place of each image in its data set."""
    labels: np.ndarray
    """(n,) int64."""
    best: np.ndarray
    """(n, min(K, 5)) int64, classes by score, the highest first."""
    losses: np.ndarray
    """(n,) float64."""
    confidences: np.ndarray
    """(n,) float32, probability of the best class by softmax."""


class ClassificationEvaluator(ImageScores[Scored]):
    """Collect the logits of images, and score them.

    Args:
        classes: names by label.
    """

    kept = Scored

    def add(self, indices: Tensor, labels: Tensor, logits: Tensor, losses: Tensor) -> None:
        """Add a batch; this does not synchronise with the device.

        Args:
            indices: (B,) int64, place of each image in its data set.
            labels: (B,) int64.
            logits: (B, K) float.
            losses: (B,) float, loss of each image.
        """
        best = logits.topk(min(MOST, logits.shape[1]), dim=1).indices
        confidences = logits.float().softmax(dim=1).amax(dim=1)
        self._parts.append((indices, labels, best, losses, confidences))

    def evaluate(self) -> dict[str, float]:
        """Return ``loss``, ``top1``, ``class_mean`` (mean accuracy of the classes) and, for K > 5, ``top5``.

        Accuracies are fractions. All values are NaN without images.
        """
        names = ("loss", "top1", "class_mean", *(["top5"] if len(self.classes) > MOST else []))
        if not self.state():
            return dict.fromkeys(names, math.nan)
        scored, accuracy = self.state()[0], self.per_class()
        hits = scored.best == scored.labels[:, None]
        values = {
            "loss": float(scored.losses.mean()),
            "top1": float(hits[:, 0].mean()),
            "class_mean": float(accuracy[np.isfinite(accuracy)].mean()),
            "top5": float(hits.any(axis=1).mean()),
        }
        return {name: values[name] for name in names}

    def confusion(self) -> np.ndarray:
        """Return (K, K) int64 numbers of images; rows are true classes, columns predicted ones."""
        size = len(self.classes)
        if not self.state():
            return np.zeros((size, size), dtype=np.int64)
        scored = self.state()[0]
        return np.bincount(scored.labels * size + scored.best[:, 0], minlength=size**2).reshape(size, size)

    def per_class(self) -> np.ndarray:
        """Return the top-1 accuracy of each class, (K,) float64; NaN for a class without images."""
        matrix = self.confusion()
        counts = matrix.sum(axis=1)
        accuracy = np.full(len(matrix), math.nan)
        accuracy[counts > 0] = np.diag(matrix)[counts > 0] / counts[counts > 0]
        return accuracy

    def calibration(self) -> dict[str, Any]:
        """Return how close the probability of the best class is to its accuracy; see :func:`calibration`."""
        if not self.state():
            return {"error": None, "bins": []}
        scored = self.state()[0]
        return calibration(scored.confidences, scored.best[:, 0] == scored.labels)

    def report(self) -> dict[str, Any]:
        """Return all scores as plain values, for a JSON file."""
        matrix, accuracy = self.confusion(), self.per_class()
        rows = [
            {
                "name": name,
                "images": int(matrix[label].sum()),
                "predicted": int(matrix[:, label].sum()),
                "accuracy": None if math.isnan(accuracy[label]) else float(accuracy[label]),
            }
            for label, name in enumerate(self.classes)
        ]
        metrics = {name: None if math.isnan(value) else value for name, value in self.evaluate().items()}
        return {
            "metrics": metrics,
            "images": int(matrix.sum()),
            "classes": rows,
            "confusion": matrix.tolist(),
            "calibration": self.calibration(),
        }


def calibration(confidences: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Return how close confidences are to the fraction that is right.

    Args:
        confidences: (n,) float, from 0 to 1.
        right: (n,) bool.

    Returns:
        ``error``, the expected calibration error: the mean difference of confidence and accuracy over :data:`BINS`
        ranges of confidence, weighted by images; None without images. ``bins``: for each range with images, its limits
        ``from`` and ``to``, the number of ``images``, mean ``confidence`` and ``accuracy``.
    """
    if not len(right):
        return {"error": None, "bins": []}
    place = np.minimum((confidences * BINS).astype(int), BINS - 1)
    bins = [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "images": int(inside.sum()),
            "confidence": float(confidences[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for number in range(BINS)
        if (inside := place == number).any()
    ]
    error = sum(one["images"] * abs(one["confidence"] - one["accuracy"]) for one in bins) / len(right)
    return {"error": float(error), "bins": bins}
