"""The exact bounds of the part of a mask that lies inside a window.

All numbers are in the pixels of one image, continuous: pixel (0, 0) covers [0, 1) x [0, 1).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.coco.bitmaps import bitmap_bounds
from detection.coco.rle import run_lengths

if TYPE_CHECKING:
    from detection.coco.segmentation import Segmentation

NOTHING = np.array([np.inf, np.inf, -np.inf, -np.inf])
"""The box around nothing."""

_INSIDE = 1e-7
"""Distance in pixels by which a corner of the window is moved inwards, away from outlines that run along the window."""


def visible_boxes(segmentations: "Sequence[Segmentation]", window: np.ndarray) -> np.ndarray:
    """Return the boxes around what a window shows of masks.

    Args:
        segmentations: k of them.
        window: (4,) XYXY.

    Returns:
        (k, 4) XYXY inside the window; the window itself where no mask is known, :data:`NOTHING` where it shows nothing.

    Example:
        >>> triangle = [np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])]
        >>> visible_boxes([triangle], np.array([4.0, 1.0, 9.0, 9.0])).tolist()
        [[4.0, 1.0, 7.0, 4.0]]
    """
    boxes = np.tile(NOTHING, (len(segmentations), 1))
    drawn = [k for k, one in enumerate(segmentations) if isinstance(one, list) and one]
    if drawn:
        boxes[drawn] = _bounds_of_polygons([segmentations[k] for k in drawn], window)  # type: ignore[misc]
    for k, segmentation in enumerate(segmentations):
        if segmentation is None:
            boxes[k] = window
        elif not isinstance(segmentation, list):
            boxes[k] = _bounds_of_rle(segmentation, window)
    return boxes


def _bounds_of_polygons(objects: Sequence[Sequence[np.ndarray]], window: np.ndarray) -> np.ndarray:
    """Return (k, 4) bounds of each object's polygons inside a window.

    The visible part of a polygon ends at its own outline, or at a corner of the window that lies in the polygon.
    """
    polygons = [polygon for parts in objects for polygon in parts]
    length = np.array([len(polygon) for polygon in polygons])
    ends = length.cumsum()
    points = np.concatenate(polygons)
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = ends - length
    start, step = points, points[following] - points
    # The part of each edge inside the window, from `first` to `last` of its length (Liang and Barsky 1984).
    first, last = np.zeros(len(points)), np.ones(len(points))
    for axis in (0, 1):
        near, far = window[axis::2]
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = ((side - start[:, axis]) / step[:, axis] for side in (near, far))
        flat = step[:, axis] == 0
        # An edge along the window's border shows nothing by itself.
        between = (start[:, axis] > near) & (start[:, axis] < far)
        low, high = np.where(flat, np.where(between, 0, 2), low), np.where(flat, np.where(between, 1, -1), high)
        first, last = np.maximum(first, np.minimum(low, high)), np.minimum(last, np.maximum(low, high))
        last[flat & ~between] = -1
    shown = first < last
    ends_of_edges = np.stack([start + first[:, None] * step, start + last[:, None] * step])
    low = np.where(shown[:, None], ends_of_edges.min(axis=0), np.inf)
    high = np.where(shown[:, None], ends_of_edges.max(axis=0), -np.inf)
    corners = np.array([[window[x], window[y]] for x in (0, 2) for y in (1, 3)])
    held = _holds(start, step, ends - length, corners + _INSIDE * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]))
    begin = ends - length
    low = np.minimum(np.minimum.reduceat(low, begin), np.where(held[..., None], corners, np.inf).min(axis=1))
    high = np.maximum(np.maximum.reduceat(high, begin), np.where(held[..., None], corners, -np.inf).max(axis=1))
    number = np.array([len(parts) for parts in objects])
    of_objects = number.cumsum() - number
    boxes = np.concatenate(
        [np.minimum.reduceat(low, of_objects, axis=0), np.maximum.reduceat(high, of_objects, axis=0)], axis=1
    )
    shows = np.isfinite(boxes).all(axis=1)
    boxes[shows] = boxes[shows].clip(window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
    return boxes


def _holds(start: np.ndarray, step: np.ndarray, begin: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (polygons, points) bool: which polygons hold which points, by the even-odd rule."""
    end = start + step
    held = np.zeros((len(begin), len(points)), dtype=bool)
    for k, (x, y) in enumerate(points):
        crosses = (start[:, 1] > y) != (end[:, 1] > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = start[:, 0] + (y - start[:, 1]) / step[:, 1] * step[:, 0]
        held[:, k] = np.add.reduceat((crosses & (at > x)).astype(np.int64), begin) % 2 == 1
    return held


def _bounds_of_rle(rle: Mapping[str, Any], window: np.ndarray) -> np.ndarray:
    """Return (4,) bounds of the pixels of an RLE that overlap a window, cut at the window."""
    height, width = (int(side) for side in rle["size"])
    left, top = (max(0, int(np.floor(value + _INSIDE))) for value in window[:2])
    right, bottom = (min(b, int(np.ceil(a - _INSIDE))) for a, b in zip(window[2:], (width, height), strict=True))
    if left >= right or top >= bottom:
        return NOTHING
    ends = run_lengths(rle).cumsum()
    # COCO runs go down the columns; runs of ones have odd numbers.
    ends = np.concatenate([[left * height], ends.clip(left * height, right * height)])
    ones = np.repeat((np.arange(len(ends) - 1) & 1).astype(bool), np.diff(ends)).reshape(-1, height)[:, top:bottom]
    found = bitmap_bounds(ones.T)
    if found is None:
        return NOTHING
    return (np.array(found, dtype=np.float64) + [left, top, left, top]).clip(window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
