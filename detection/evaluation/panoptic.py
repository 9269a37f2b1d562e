"""Panoptic quality (PQ) of one image and of many.

H x W image   C classes, those of objects and those of stuff.
Kirillov et al. 2019 (Panoptic segmentation), section 4; details as in the official panopticapi.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from detection.ops.panoptic import Segment

IOU, MATCHED, WRONG, MISSED = range(4)
"""Columns of counts: the sum of IoUs, the number of matched, of wrong and of missed segments."""
QUALITIES = tuple(name + group for group in ("", "_things", "_stuff") for name in ("PQ", "SQ", "RQ"))
"""Names of the scores."""
VOID = 0
"""Value of pixels without a segment."""


def compare(
    truth: np.ndarray,
    segments: Sequence[Segment],
    found: np.ndarray,
    predicted: Sequence[Segment],
    num_things: int,
    num_classes: int,
) -> np.ndarray:
    """Match the segments of a prediction with those of the ground truth.

    Two segments of a class match if their IoU is above 0.5; pixels without truth do not count. A prediction that
    matches nothing is not wrong if more than half of it has no truth, or lies in the crowd of its class.

    Args:
        truth, found: (H, W) maps of segment IDs.
        segments, predicted: their segments.
        num_things: number of classes of objects.
        num_classes: C.

    Returns:
        (C, 4) float64 with the columns :data:`IOU`, :data:`MATCHED`, :data:`WRONG`, :data:`MISSED`.
    """
    real, guesses = ({one.id: one for one in some} for some in (segments, predicted))
    shared = _shared_areas(truth, found)
    areas = [_sums(shared, side) for side in (0, 1)]
    counts = np.zeros((num_classes, 4))

    def class_of(segment: Segment) -> int:
        return segment.label if segment.is_thing else num_things + segment.label - 1

    matched: tuple[set[int], set[int]] = set(), set()
    for (mine, theirs), area in shared.items():
        one, other = real.get(mine), guesses.get(theirs)
        if one is None or other is None or one.is_crowd or class_of(one) != class_of(other):
            continue
        union = areas[0][mine] + areas[1][theirs] - area - shared.get((VOID, theirs), 0)
        if area / union > 0.5:
            counts[class_of(one), MATCHED] += 1
            counts[class_of(one), IOU] += area / union
            matched[0].add(mine)
            matched[1].add(theirs)
    crowds = {class_of(one): one.id for one in segments if one.is_crowd}  # of several of a class, the last one
    for one in segments:
        if one.id not in matched[0] and not one.is_crowd:
            counts[class_of(one), MISSED] += 1
    for one in predicted:
        if one.id in matched[1] or one.id not in areas[1]:
            continue
        crowd = crowds.get(class_of(one))
        ignored = shared.get((VOID, one.id), 0) + (0 if crowd is None else shared.get((crowd, one.id), 0))
        if ignored / areas[1][one.id] <= 0.5:
            counts[class_of(one), WRONG] += 1
    return counts


def quality(counts: np.ndarray, num_things: int) -> dict[str, float]:
    """Return PQ, SQ and RQ of all classes, of objects and of stuff, as means over the classes that occur.

    Args:
        counts: (C, 4), the sum over the images.
        num_things: number of classes of objects.

    Returns:
        Fractions by name: ``PQ``, ``SQ``, ``RQ``, ``PQ_things`` ... ``RQ_stuff``; NaN if no class occurs.
    """
    rows, found = per_class(counts), {}
    groups = {"": slice(None), "_things": slice(0, num_things), "_stuff": slice(num_things, None)}
    for group, part in groups.items():
        for column, name in enumerate(("PQ", "SQ", "RQ")):
            values = rows[part, column]
            values = values[~np.isnan(values)]
            found[name + group] = float(values.mean()) if len(values) else math.nan
    return found


def per_class(counts: np.ndarray) -> np.ndarray:
    """Return PQ, SQ and RQ of each class, (C, 3) float64; NaN for a class that does not occur."""
    iou, matched, wrong, missed = counts.T
    weight = matched + wrong / 2 + missed / 2
    occurs = weight > 0
    rows = np.full((len(counts), 3), math.nan)
    rows[occurs, 0] = iou[occurs] / weight[occurs]
    rows[occurs, 1] = iou[occurs] / np.maximum(matched[occurs], 1)
    rows[occurs, 2] = matched[occurs] / weight[occurs]
    return rows


def _shared_areas(truth: np.ndarray, found: np.ndarray) -> dict[tuple[int, int], int]:
    """Return the number of pixels of each pair of segments that overlap."""
    pairs = truth.astype(np.int64) << 32 | found.astype(np.int64)
    values, numbers = np.unique(pairs, return_counts=True)
    return {
        (int(value) >> 32, int(value) & 0xFFFFFFFF): int(number) for value, number in zip(values, numbers, strict=True)
    }


def _sums(shared: dict[tuple[int, int], int], side: int) -> dict[int, int]:
    totals: dict[int, int] = {}
    for pair, area in shared.items():
        totals[pair[side]] = totals.get(pair[side], 0) + area
    return totals


def summed(counts: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """Return the sum of the counts of images, (C, 4)."""
    total = np.zeros((num_classes, 4))
    for one in counts:
        total += one
    return total
