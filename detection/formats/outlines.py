"""Convert bitmaps to polygons, and join several polygons into one.

A format with one polygon per object cannot store a second part or a hole. This module connects each part and hole to
the rest by a line of zero width, in both directions. Filled by the even-odd rule, the result covers the same pixels.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

MOST_PARTS = 100
"""Number of parts and holes to keep per object, the largest first. A noisy mask could have a million."""

_AHEAD = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # east, south, west, north, as row and column


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of all parts and holes of a bitmap, the largest first.

    The outlines connect the midpoints of pixel edges. All centres of 1-pixels are inside, all centres of 0-pixels are
    outside. Pixels that touch only at a corner belong to the same part.

    Args:
        mask: (H, W) of 0 and 1.

    Returns:
        Polygons (k, 2) float64 x, y; parts run clockwise, holes counterclockwise.
    """
    start, heading = _sides(np.pad(np.asarray(mask, dtype=bool), 1))
    following = _following(start, heading)
    middle = (start + _AHEAD[heading] / 2)[:, ::-1] - 1  # x, y without the padding
    loops = [_without_straight(middle[loop]) for loop in _loops(following)]
    return sorted(loops, key=lambda loop: -area(loop))


def rle_outlines(rle: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the outlines of a compressed COCO RLE, like :func:`outlines`; read only the pixels in its box."""
    x, y, w, h = (int(value) for value in coco_mask.toBbox(rle))
    crop = np.asarray(coco_mask.decode(rle))[y : y + h, x : x + w]
    return [loop + [x, y] for loop in outlines(crop)]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join polygons into one, by lines of zero width between their nearest points.

    Args:
        parts: polygons (k, 2); the function uses the MOST_PARTS largest.
    """
    ordered = sorted(parts, key=lambda part: -area(part))[:MOST_PARTS]
    whole = ordered[0]
    for part in ordered[1:]:
        i, j = _nearest(whole, part)
        whole = np.concatenate([whole[: i + 1], part[j:], part[: j + 1], whole[i:]])
    return whole


def area(polygon: np.ndarray) -> float:
    """Return the area of a polygon (k, 2), by the shoelace formula."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _sides(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges between 1 and 0, with the 1 on the right: start corners (n, 2) and directions (n,)."""
    inside = mask[1:-1, 1:-1]
    starts, headings = [], []
    # The top edge of a pixel goes east from its upper left corner, the right edge goes south, and so on.
    for heading, (outside, corner) in enumerate(
        [(mask[:-2, 1:-1], (0, 0)), (mask[1:-1, 2:], (0, 1)), (mask[2:, 1:-1], (1, 1)), (mask[1:-1, :-2], (1, 0))]
    ):
        found = np.argwhere(inside & ~outside) + 1 + corner
        starts.append(found)
        headings.append(np.full(len(found), heading))
    return np.concatenate(starts), np.concatenate(headings)


def _following(start: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """Return the next edge after each, (n,). At a corner take the left one, so that diagonal pixels are one part."""
    if not len(start):
        return np.zeros(0, dtype=np.int64)
    height, width = start.max(axis=0) + 1
    at = np.full((4, height * width), -1)
    at[heading, start[:, 0] * width + start[:, 1]] = np.arange(len(start))
    end = start + _AHEAD[heading]
    corner = end[:, 0] * width + end[:, 1]
    following = at[(heading + 1) % 4, corner]
    for turn in (0, 3):  # straight on, left
        other = at[(heading + turn) % 4, corner]
        following = np.where(other >= 0, other, following)
    return following


def _loops(following: np.ndarray) -> list[list[int]]:
    left = following.tolist()
    loops = []
    for first in range(len(left)):
        loop, place = [], first
        while left[place] >= 0:
            loop.append(place)
            left[place], place = -1, left[place]
        if loop:
            loops.append(loop)
    return loops


def _without_straight(loop: np.ndarray) -> np.ndarray:
    """Remove the points of a polygon that lie on the line between their neighbours."""
    ahead, behind = np.roll(loop, -1, axis=0) - loop, loop - np.roll(loop, 1, axis=0)
    return loop[ahead[:, 0] * behind[:, 1] != ahead[:, 1] * behind[:, 0]]


def _nearest(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Return the indices of the nearest pair of points, one of each polygon; compare in parts, to limit the memory."""
    best, found = np.inf, (0, 0)
    step = max(1, 1_000_000 // len(other))
    for begin, end in pairwise([*range(0, len(one), step), len(one)]):
        squared = ((one[begin:end, None] - other) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(squared.argmin()), squared.shape)
        if squared[i, j] < best:
            best, found = float(squared[i, j]), (begin + int(i), int(j))
    return found
