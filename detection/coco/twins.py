"""Find objects that are annotated twice: exact twins differ only in their ID, near twins have nearly the same box.

m objects of all images, ordered by image
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from detection.coco.segmentation import Segmentation
from detection.ops.boxes import iou

NEAR = 0.98
"""Two boxes of the same class and image are near twins if their IoU is above this."""

_ROWS = 512
"""Number of boxes that are compared at a time; it limits the memory."""


def exact_twins(
    owners: np.ndarray,
    labels: np.ndarray,
    crowd: np.ndarray,
    xywh: np.ndarray,
    segmentation: Callable[[int], Segmentation],
) -> list[int]:
    """Return the indices of objects that equal an earlier one in image, class, crowd, box and segmentation.

    Args:
        owners: (m,) image index of each object.
        labels, crowd: (m,).
        xywh: (m, 4).
        segmentation: function that returns the segmentation of object k.
    """
    key = _hashed(owners, labels, crowd, xywh)
    _, place, count = np.unique(key, return_inverse=True, return_counts=True)
    seen: set[tuple[bytes, ...]] = set()
    twins = []
    for k in np.flatnonzero(count[place] > 1).tolist():
        one = (*(column[k].tobytes() for column in (owners, labels, crowd, xywh + 0.0)), *_bytes(segmentation(k)))
        if one in seen:
            twins.append(k)
        seen.add(one)
    return twins


def near_twins(owners: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs (earlier, later) of objects of one image and class whose boxes have an IoU above :data:`NEAR`.

    Each later object occurs once, with the first of its earlier twins.

    Args:
        owners, labels: (m,); ``owners`` is sorted.
        boxes: (m, 4) XYXY.
    """
    order = np.lexsort((labels, owners))
    changes = np.flatnonzero((np.diff(owners[order]) != 0) | (np.diff(labels[order]) != 0)) + 1
    for group in np.split(order, changes):
        group = np.sort(group)
        for start in range(0, len(group) if len(group) > 1 else 0, _ROWS):
            rows = group[start : start + _ROWS]
            near = iou(torch.from_numpy(boxes[rows]), torch.from_numpy(boxes[group])).numpy() > NEAR
            near &= group[None, :] < rows[:, None]
            for k in np.flatnonzero(near.any(axis=1)).tolist():
                yield int(group[near[k].argmax()]), int(rows[k])


def _hashed(owners: np.ndarray, labels: np.ndarray, crowd: np.ndarray, xywh: np.ndarray) -> np.ndarray:
    """Return hashes (m,) uint64: equal for equal objects, and rarely equal for different ones."""
    words = np.ascontiguousarray(xywh + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    key = owners.astype(np.uint64) * np.uint64(2) + crowd.astype(np.uint64)
    for column in (labels.astype(np.uint64), *words.T):
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def _bytes(segmentation: Segmentation) -> tuple[bytes, ...]:
    if isinstance(segmentation, dict):
        return (segmentation["counts"],)
    return tuple(polygon.tobytes() for polygon in segmentation or ())
