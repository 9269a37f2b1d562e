"""Measure how well the anchors of a detector fit the objects of a data set, after resizing.

n objects.  Anchors with an IoU of 0.7 or more are positive for the RPN, and the best anchor of each object
(Ren et al. 2015, section 3.1.2).  So the RPN learns little from objects that no anchor overlaps well.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from detection.models.anchors import AnchorConfig

SIDES = (0, 16, 32, 64, 128, 256, 1e9)
"""Square roots of areas, in pixels of the canvas, that separate the rows of the table."""


def best_overlap(
    boxes: np.ndarray, sizes: np.ndarray, strides: Sequence[int], config: AnchorConfig, divisor: int = 32
) -> np.ndarray:
    """Return the IoU (n,) of each object with its best anchor.

    Among the anchors of one shape, the one with the nearest centre is the best.

    Args:
        boxes: (n, 4) XYXY after resizing.
        sizes: (n, 2) height, width of their images after resizing.
        strides: of the pyramid's levels.
        divisor: padding makes the sides of the images multiples of it.
    """
    centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    area = extent.prod(axis=1)
    canvas = np.ceil(sizes[:, ::-1] / divisor) * divisor  # width, height
    best = np.zeros(len(boxes))
    for stride, level in zip(strides, config.sizes, strict=True):
        last = np.ceil(canvas / stride) - 1
        offset = np.abs(centre - np.clip(np.round(centre / stride), 0, last) * stride)
        sides: Any = level if isinstance(level, Sequence) else (level,)
        for side, ratio in product(sides, config.ratios):
            shape = np.array([side / ratio**0.5, side * ratio**0.5])
            # The length that two intervals share, from the distance of their centres.
            shared = np.minimum((extent + shape) / 2 - offset, np.minimum(extent, shape)).clip(min=0).prod(axis=1)
            best = np.maximum(best, shared / (area + side**2 - shared))
    return best


def recall_table(overlap: np.ndarray, sides: np.ndarray) -> list[tuple[str, int, float, float, float]]:
    """Return rows by size: objects, their mean best IoU, and the fractions with an IoU of at least 0.5 and 0.7."""
    rows = []
    for low, high in pairwise(SIDES):
        inside = (sides >= low) & (sides < high)
        label = f"{low:g} to {high:g} px" if high < 1e9 else f"over {low:g} px"
        rows.append(_row(label, overlap[inside]))
    return [row for row in rows if row[1]] + [_row("all", overlap)]


def loses(before: np.ndarray, after: np.ndarray, sides: np.ndarray) -> bool:
    """Return whether any size group, or all objects together, have a lower recall at IoU 0.5 or 0.7 than before.

    Args:
        before: (n,) best IoU of each object.
        after: (n,) with other anchors.
        sides: (n,) square roots of the objects' areas.
    """
    old, new = recall_table(before, sides), recall_table(after, sides)
    return any(n[3] < o[3] or n[4] < o[4] for o, n in zip(old, new, strict=True))


def anchors_per_cell(config: AnchorConfig) -> int:
    """Return the number of anchors in a cell of the level with most of them."""
    return max(len(level) if isinstance(level, Sequence) else 1 for level in config.sizes) * len(config.ratios)


def suggest(
    boxes: np.ndarray,
    sizes: np.ndarray,
    strides: Sequence[int],
    current: AnchorConfig,
    most: int = 20_000,
    seed: int = 0,
) -> AnchorConfig | None:
    """Suggest anchors that overlap the objects better than the current ones, and lower the recall of no size group.

    The search tries sides that grow with the stride, because anchors of coarse cells are too far apart for small
    objects. They have one to eight times the stride, with one to three sizes per level. The search also tries the
    current sides with more sides between them. Aspect ratios are 0.5, 1 and 2, or those of the objects. Of the anchors
    within 0.02 of the best mean IoU, the search returns those with the fewest per cell.

    Args:
        boxes: (n, 4) XYXY after resizing.
        sizes: (n, 2) of their images.
        strides: strides of the pyramid's levels, in pixels.
        current: anchors of the detector.
        most: number of objects that the search uses, drawn at random.

    Returns:
        The anchors; None if all candidates lower the recall of a size group, or are not better.
    """
    if len(boxes) > most:
        drawn = np.random.default_rng(seed).choice(len(boxes), most, replace=False)
        boxes, sizes = boxes[drawn], sizes[drawn]
    extent = boxes[:, 2:] - boxes[:, :2]
    sides = np.sqrt(extent.prod(axis=1))
    before = best_overlap(boxes, sizes, strides, current)
    tried: list[tuple[float, int, AnchorConfig]] = []
    for config in _candidates(extent, strides, current):
        overlap = best_overlap(boxes, sizes, strides, config)
        if overlap.mean() > before.mean() and not loses(before, overlap, sides):
            tried.append((float(overlap.mean()), anchors_per_cell(config), config))
    if not tried:
        return None
    best = max(overlap for overlap, _, _ in tried)
    good = [one for one in tried if one[0] >= best - 0.02]
    return min(good, key=lambda one: (one[1], -one[0]))[2]


def _candidates(extent: np.ndarray, strides: Sequence[int], current: AnchorConfig) -> Iterator[AnchorConfig]:
    """Yield the anchors to try; ``extent`` is (n, 2) width, height of the objects."""
    shapes = np.quantile(extent[:, 1] / extent[:, 0], (0.15, 0.5, 0.85))
    own = tuple(sorted({round(float(shape), 2) for shape in shapes}))
    for ratios in {(0.5, 1.0, 2.0), own}:
        for factor in (1, 1.4, 2, 2.8, 4, 5.6, 8):
            for number in (1, 2, 3):
                levels = tuple(
                    tuple(max(2, round(factor * stride * 2 ** (k / number))) for k in range(number))
                    for stride in strides
                )
                yield AnchorConfig(sizes=levels, ratios=ratios)
    # Anchors in addition to the current ones lower no overlap.
    used = [tuple(level) if isinstance(level, Sequence) else (level,) for level in current.sizes]
    for ratios in {tuple(current.ratios), tuple(sorted({*current.ratios, *own}))}:
        for factors in ((1,), (0.5, 1), (0.7, 1), (1, 1.4), (1, 2)):
            more = tuple(tuple(sorted({max(2, round(f * side)) for f in factors for side in level})) for level in used)
            yield AnchorConfig(sizes=more, ratios=ratios)


def _row(label: str, overlap: np.ndarray) -> tuple[str, int, float, float, float]:
    if not len(overlap):
        return label, 0, float("nan"), float("nan"), float("nan")
    return label, len(overlap), float(overlap.mean()), float((overlap >= 0.5).mean()), float((overlap >= 0.7).mean())
