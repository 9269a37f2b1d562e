"""Compare two evaluations on bootstrap samples of the images, to estimate which differences may be random."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.engines import Evaluation, hotcoco, statistics
from detection.evaluation.ground_truth import is_scored
from detection.evaluation.limits import COCO_LIMITS

AREAS = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Smallest and largest area, by the last letter of a metric's name, as in pycocotools; other metrics use ``ALL``."""
ALL = (0.0, 1e10)

MOST_MISSED = 0.01
"""A number has no interval if more than this fraction of the samples has no object that contributes to it."""


@dataclass(frozen=True)
class Change:
    """A metric of two evaluations, and the spread of second - first over the same bootstrap samples for both.

    All values are NaN if no objects contribute to the metric. The spread is also NaN if too few images have such
    objects.
    """

    first: float
    second: float
    error: float
    """Standard error of the difference."""
    low: float
    high: float
    """95% interval of the difference."""


def changes(
    truth: Mapping[str, Any], first: Evaluation, second: Evaluation, resamplings: int, seed: int
) -> dict[str, Change]:
    """Compare two evaluations at the same limits, by the names of their numbers.

    hotcoco.compare (1.3.0) draws images with replacement, but counts an image that it drew twice only once.
    :func:`widening` widens its deviations to those of samples in which the image counts twice.

    Args:
        truth: ground truth of both evaluations.
        first, second: results of :func:`~detection.evaluation.engines.hotcoco_evaluation`.
        resamplings: number of bootstrap samples; 0: no spread.
        seed: seed of the samples.
    """
    found_by = hotcoco("an interval").compare(first.engine, second.engine, n_bootstrap=resamplings, seed=seed)
    images = len(truth["images"])
    factor = widening(images)
    seen = {area: _images_with(truth, *area) for area in (ALL, *AREAS.values())}
    found = {}
    # hotcoco uses the names of COCO's limits for all limits.
    own_names, names = (statistics(limits, first.iou_type) for limits in (first.limits, COCO_LIMITS))
    for own, name in zip(own_names, names, strict=True):
        values = [float(found_by[side][name]) for side in ("metrics_a", "metrics_b")]
        values = [math.nan if value == -1 else value for value in values]
        spread = [math.nan] * 3
        # For hotcoco, a sample without any such object has no difference.
        if found_by["ci"] and (1 - seen[AREAS.get(name[-1], ALL)] / images) ** images <= MOST_MISSED:
            drawn, difference = found_by["ci"][name], values[1] - values[0]
            low, high = (difference + factor * (drawn[end] - difference) for end in ("lower", "upper"))
            spread = [factor * drawn["std_err"], low, high]
        found[own] = Change(*values, *spread)
    return found


def widening(images: int) -> float:
    """Return the ratio of two spreads of a mean over ``images`` drawn with replacement: with and without repeated ones.

    Let n images have the variance v, and let D of them be drawn at least once. The mean of those D has the variance
    v n / (n - 1) E[1/D - 1/n] instead of v / n. n E[1/D] is the sum of (k/n)^(n-1) for k = 1 to n (Raj and Khamis
    1958). 1.31 for many images; NaN for one image.
    """
    if images == 1:
        return math.nan
    inverse = float(((np.arange(1, images + 1) / images) ** (images - 1)).sum())
    return math.sqrt((images - 1) / images / (inverse - 1))


def _images_with(truth: Mapping[str, Any], low: float, high: float) -> int:
    """Return the number of images with an object whose area is in a range."""
    return len({a["image_id"] for a in truth["annotations"] if is_scored(a) and low <= a["area"] <= high})
