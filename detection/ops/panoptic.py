"""Merge detected objects and a semantic map into segments that do not overlap.

n objects   H x W image.  Kirillov et al. 2019 (Panoptic segmentation), section 7.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detection.categories import Categories

if TYPE_CHECKING:
    from detection.coco.patches import Patch


class Segment(NamedTuple):
    """A region of a panoptic map."""

    id: int
    """The value of its pixels in the map, from 1; 0 means that a pixel belongs to no segment."""
    label: int
    """Class of an object, 0..K-1, or semantic class of stuff, from 1."""
    is_thing: bool
    """Whether it is an object."""
    score: float | None = None
    """Of an object that a detector found."""
    is_crowd: bool = False
    """Whether it is a region with many objects, in the ground truth."""


def merge(
    masks: Sequence["Patch"],
    scores: np.ndarray,
    labels: np.ndarray,
    semantic: np.ndarray,
    overlap: float = 0.5,
    stuff_area: int = 4096,
    score: float = 0.5,
) -> tuple[np.ndarray, list[Segment]]:
    """Give each pixel to the best object that covers it, and the rest to stuff.

    Objects come in the order of their scores. An object keeps the pixels that no object before it has.

    Args:
        masks: of the objects, each in a window of the image.
        scores: (n,).
        labels: (n,) in 0..K-1.
        semantic: (H, W) semantic classes; 0 stands for all objects.
        overlap: drop an object if better ones hide more than this fraction of its mask.
        stuff_area: drop a region of stuff of fewer pixels.
        score: drop objects with a lower score.

    Returns:
        The map (H, W) int32, and its segments, the objects first.
    """
    panoptic = np.zeros(semantic.shape, dtype=np.int32)
    segments: list[Segment] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        place, pixels = masks[i].place, masks[i].pixels
        free = pixels & (panoptic[place] == 0)
        area, left = int(pixels.sum()), int(free.sum())
        if scores[i] < score or not area or (area - left) / area > overlap:
            continue
        segments.append(Segment(len(segments) + 1, int(labels[i]), True, float(scores[i])))
        panoptic[place][free] = len(segments)
    rest = np.where(panoptic == 0, semantic, 0)
    areas = np.bincount(rest.ravel())
    for label in np.flatnonzero(areas).tolist():
        if label and areas[label] >= stuff_area:
            segments.append(Segment(len(segments) + 1, label, False))
            panoptic[rest == label] = len(segments)
    return panoptic, segments


def panoptic_categories(things: Categories, semantic: Categories) -> Categories:
    """Return the classes of panoptic maps: those of objects, then those of stuff.

    Args:
        things: the classes of objects.
        semantic: the classes of semantic maps, of which the first stands for all objects.
    """
    return Categories((*things.names, *semantic.names[1:]), (*things.ids, *semantic.ids[1:]))
