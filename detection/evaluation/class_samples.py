"""Scores of classifiers on bootstrap samples of the images, in which an image counts as often as it was drawn.

n images   K classes
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from detection.evaluation.multi_label import THRESHOLD, average_precisions, f1

TOP = 5


class Judged(Protocol):
    """Images with their true and their predicted classes."""

    def __len__(self) -> int:
        """Return n."""

    def numbers(self, weights: np.ndarray) -> dict[str, float]:
        """Return the main scores as fractions, for (n,) weights of the images."""

    def per_class(self, weights: np.ndarray) -> np.ndarray:
        """Return the score of each class, (K,); NaN for a class without images."""


class OneClass:
    """Images with one class each.

    Args:
        labels: (n,) int64, true classes.
        ranks: (n,) int64, place of the true class among the scores of its image, from 1.
        classes: K.
    """

    def __init__(self, labels: np.ndarray, ranks: np.ndarray, classes: int) -> None:
        self.labels, self.ranks, self.classes = labels, ranks, classes

    def __len__(self) -> int:
        return len(self.labels)

    def numbers(self, weights: np.ndarray) -> dict[str, float]:
        """Return ``top1``, ``class_mean`` and, for more than five classes, ``top5``."""
        found = {
            "top1": float(np.average(self.ranks == 1, weights=weights)),
            "class_mean": float(np.nanmean(self.per_class(weights))),
        }
        if self.classes > TOP:
            found["top5"] = float(np.average(self.ranks <= TOP, weights=weights))
        return found

    def per_class(self, weights: np.ndarray) -> np.ndarray:
        """Return the top-1 accuracy of each class, (K,); NaN for a class without images."""
        count = np.bincount(self.labels, weights, self.classes)
        right = np.bincount(self.labels, weights * (self.ranks == 1), self.classes)
        return np.where(count > 0, right / np.maximum(count, 1), np.nan)


class SeveralClasses:
    """Images with several classes each, or none.

    Args:
        present: (n, K) bool, true classes.
        scores: (n, K) float, probabilities.
    """

    def __init__(self, present: np.ndarray, scores: np.ndarray) -> None:
        self.present, self.scores = present, scores

    def __len__(self) -> int:
        return len(self.present)

    def numbers(self, weights: np.ndarray) -> dict[str, float]:
        """Return ``mAP``, ``F1``, ``class_mean_F1`` and ``exact``; see ``MultiLabelEvaluator.evaluate``."""
        drawn = np.repeat(np.arange(len(self)), weights.astype(np.int64))
        present, predicted = self.present[drawn], self.scores[drawn] >= THRESHOLD
        each = f1(predicted, present)[present.any(axis=0)]
        return {
            "mAP": float(np.nanmean(self.per_class(weights))),
            "F1": float(f1(predicted.reshape(-1, 1), present.reshape(-1, 1))[0]),
            "class_mean_F1": float(each.mean()) if len(each) else float("nan"),
            "exact": float((predicted == present).all(axis=1).mean()),
        }

    def per_class(self, weights: np.ndarray) -> np.ndarray:
        """Return the average precision of each class, (K,); NaN for a class without images."""
        drawn = np.repeat(np.arange(len(self)), weights.astype(np.int64))
        return average_precisions(self.scores[drawn], self.present[drawn])


def draws(images: int, resamplings: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield, for each bootstrap sample, how often it has each image, (n,) float64."""
    generator = np.random.default_rng(seed)
    for _ in range(resamplings):
        yield np.bincount(generator.integers(images, size=images), minlength=images).astype(np.float64)


def spread(judged: Judged, resamplings: int, seed: int = 0) -> tuple[dict[str, float], np.ndarray]:
    """Return the standard errors of the main scores by name, and those of the classes, (K,); NaN if unknown."""
    samples = [
        (judged.numbers(weights), judged.per_class(weights)) for weights in draws(len(judged), resamplings, seed)
    ]
    names = judged.numbers(np.ones(len(judged)))
    if len(samples) < 2:
        return dict.fromkeys(names, float("nan")), np.full(judged.per_class(np.ones(len(judged))).shape, np.nan)
    errors = {name: float(np.nanstd([found[name] for found, _ in samples], ddof=1)) for name in names}
    return errors, _deviation(np.stack([classes for _, classes in samples]))


def _deviation(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column of (R, K); NaN where more than 1 % of the samples have no value."""
    known = np.isfinite(values).mean(axis=0) >= 0.99
    found = np.full(values.shape[1], np.nan)
    found[known] = np.nanstd(values[:, known], axis=0, ddof=1)
    return found
