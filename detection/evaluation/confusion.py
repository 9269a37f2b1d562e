"""Scores of semantic maps from a confusion matrix: IoU and accuracy of classes and of pixels.

K classes.
"""

import math

import numpy as np

from detection.structures import UNLABELLED

SCORES = ("mIoU", "fwIoU", "mean_accuracy", "pixel_accuracy")
"""Names of the scores."""


def confusion(truth: np.ndarray, found: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each true class that have each predicted class; unlabelled pixels do not count.

    Args:
        truth: (H, W) uint8 in 0..K-1 or UNLABELLED.
        found: (H, W) uint8 in 0..K-1.
        num_classes: K.

    Returns:
        (K, K) int64; rows are true classes.
    """
    labelled = truth != UNLABELLED
    pairs = truth[labelled].astype(np.int64) * num_classes + found[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(matrix: np.ndarray) -> dict[str, float]:
    """Return the scores of a confusion matrix, as fractions.

    Returns:
        ``mIoU`` and ``mean_accuracy``: means over the classes of the ground truth; ``fwIoU``: IoU weighted by the
        pixels of the class; ``pixel_accuracy``. NaN without labelled pixels.
    """
    total, true = matrix.sum(), matrix.sum(axis=1)
    if not total:
        return dict.fromkeys(SCORES, math.nan)
    rows, occurs = per_class(matrix), true > 0
    return {
        "mIoU": float(rows[occurs, 0].mean()),
        "fwIoU": float((rows[occurs, 0] * true[occurs]).sum() / total),
        "mean_accuracy": float(rows[occurs, 1].mean()),
        "pixel_accuracy": float(np.diag(matrix).sum() / total),
    }


def per_class(matrix: np.ndarray) -> np.ndarray:
    """Return IoU and accuracy of each class, (K, 2) float64; NaN for a class that the ground truth does not have."""
    right, true, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = true > 0
    rows = np.full((len(matrix), 2), math.nan)
    rows[occurs, 0] = right[occurs] / (true + found - right)[occurs]
    rows[occurs, 1] = right[occurs] / true[occurs]
    return rows
