"""Two evaluations on images drawn again: how much of their difference may be chance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.engines import STATISTICS, Evaluation, hotcoco, statistics

AREAS = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""From and to, by the last letter of a number's name, as pycocotools takes them; others are about ``ALL``."""
ALL = (0.0, 1e10)

MOST_MISSED = 0.01
"""A number has no spread if more of the draws than this share have no object that it is about."""


@dataclass(frozen=True)
class Change:
    """A number of two evaluations, and the spread of second - first over images drawn again, the same for both.

    NaN where there is nothing to find; the spread also where the objects are in too few images.
    """

    first: float
    second: float
    error: float
    """Standard error."""
    low: float
    high: float
    """95% interval."""


def changes(
    truth: Mapping[str, Any], first: Evaluation, second: Evaluation, resamplings: int, seed: int
) -> dict[str, Change]:
    """Compare two evaluations at the same limits, by the names of the twelve numbers.

    hotcoco.compare (1.3.0) draws images with replacement, but counts an image that was drawn twice only once. Its
    deviations are widened by :func:`widening` to those of draws in which it counts twice.

    Args:
        truth: what both were evaluated on.
        first: of :func:`~detection.evaluation.engines.hotcoco_evaluation`.
        resamplings: how often all images are drawn; 0 for no spread.
    """
    told = hotcoco("an interval").compare(first.engine, second.engine, n_bootstrap=resamplings, seed=seed)
    images = len(truth["images"])
    factor = widening(images)
    seen = {area: _images_with(truth, *area) for area in (ALL, *AREAS.values())}
    found = {}
    # hotcoco names its numbers by COCO's limits, whatever the limits are.
    for own, name in zip(statistics(first.limits), STATISTICS, strict=True):
        values = [float(told[side][name]) for side in ("metrics_a", "metrics_b")]
        values = [math.nan if value == -1 else value for value in values]
        spread = [math.nan] * 3
        # hotcoco takes a draw without any such object for one without a difference.
        if told["ci"] and (1 - seen[AREAS.get(name[-1], ALL)] / images) ** images <= MOST_MISSED:
            drawn, difference = told["ci"][name], values[1] - values[0]
            low, high = (difference + factor * (drawn[end] - difference) for end in ("lower", "upper"))
            spread = [factor * drawn["std_err"], low, high]
        found[own] = Change(*values, *spread)
    return found


def widening(images: int) -> float:
    """How many times as far a mean over ``images`` drawn with replacement spreads if repeated ones count, too.

    With n images of variance v, of which D are drawn at least once, the mean of those D has the variance
    v n / (n - 1) E[1/D - 1/n] instead of v / n, where n E[1/D] is the sum of (k/n)^(n-1) for k = 1 to n
    (Raj and Khamis 1958). 1.31 for many images; NaN for one, which says nothing of others.
    """
    if images == 1:
        return math.nan
    inverse = float(((np.arange(1, images + 1) / images) ** (images - 1)).sum())
    return math.sqrt((images - 1) / images / (inverse - 1))


def _images_with(truth: Mapping[str, Any], low: float, high: float) -> int:
    """Images with an object of such an area."""
    return len({a["image_id"] for a in truth["annotations"] if not a["iscrowd"] and low <= a["area"] <= high})
