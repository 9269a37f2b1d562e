"""Outlines of bitmaps as polygons, and several polygons as one.

A format with one polygon per object has no place for a second part or for a hole. Both are joined to the rest by a line
of no width, there and back: a fill by the even-odd rule covers the same pixels.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

MOST_PARTS = 100
"""Parts and holes of an object that are kept, the largest; a mask of noise would have a million."""

_AHEAD = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # east, south, west, north, as row and column


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The outlines of all parts and holes of a bitmap, the largest first.

    They run through the middles of the pixels' sides, with all centres of 1 inside and all centres of 0 outside.
    Pixels that touch at a corner are one part.

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
    """As :func:`outlines`, of a compressed COCO RLE; looks at the pixels in its box only."""
    x, y, w, h = (int(value) for value in coco_mask.toBbox(rle))
    crop = np.asarray(coco_mask.decode(rle))[y : y + h, x : x + w]
    return [loop + [x, y] for loop in outlines(crop)]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One polygon of several, by lines of no width between the nearest of their points.

    Args:
        parts: polygons (k, 2), of which the MOST_PARTS largest are taken.
    """
    ordered = sorted(parts, key=lambda part: -area(part))[:MOST_PARTS]
    whole = ordered[0]
    for part in ordered[1:]:
        i, j = _nearest(whole, part)
        whole = np.concatenate([whole[: i + 1], part[j:], part[: j + 1], whole[i:]])
    return whole


def area(polygon: np.ndarray) -> float:
    """The area inside a polygon (k, 2), by the shoelace formula."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _sides(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sides between 1 and 0, each with 1 on its right: corners (n, 2) where they start, and headings (n,)."""
    inside = mask[1:-1, 1:-1]
    starts, headings = [], []
    # The side above a pixel runs east from its upper left corner, the one on its right south, and so on.
    for heading, (outside, corner) in enumerate(
        [(mask[:-2, 1:-1], (0, 0)), (mask[1:-1, 2:], (0, 1)), (mask[2:, 1:-1], (1, 1)), (mask[1:-1, :-2], (1, 0))]
    ):
        found = np.argwhere(inside & ~outside) + 1 + corner
        starts.append(found)
        headings.append(np.full(len(found), heading))
    return np.concatenate(starts), np.concatenate(headings)


def _following(start: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """(n,) the side that goes on where each ends: the left one, as pixels that touch at a corner are one part."""
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
    """A polygon without the points on the lines between their neighbours."""
    ahead, behind = np.roll(loop, -1, axis=0) - loop, loop - np.roll(loop, 1, axis=0)
    return loop[ahead[:, 0] * behind[:, 1] != ahead[:, 1] * behind[:, 0]]


def _nearest(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """The numbers of the two points, one of each polygon, that are nearest; in pieces, which bounds the memory."""
    best, found = np.inf, (0, 0)
    step = max(1, 1_000_000 // len(other))
    for begin, end in pairwise([*range(0, len(one), step), len(one)]):
        squared = ((one[begin:end, None] - other) ** 2).sum(axis=2)
        i, j = np.unravel_index(int(squared.argmin()), squared.shape)
        if squared[i, j] < best:
            best, found = float(squared[i, j]), (begin + int(i), int(j))
    return found
