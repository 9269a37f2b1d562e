"""How well the anchors of a detector fit the objects of a data set, after resizing.

n objects.  An object whose best anchor overlaps it little is learnt from a poor start, or not at all: the RPN takes
anchors from an IoU of 0.7 (and for each object its best one) as positive (Ren et al. 2015, section 3.1.2).
"""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from detection.models.anchors import AnchorConfig

SIDES = (0, 16, 32, 64, 128, 256, 1e9)
"""Square roots of areas, in pixels of the canvas, that separate the rows of the table."""


def best_overlap(
    boxes: np.ndarray, sizes: np.ndarray, strides: Sequence[int], config: AnchorConfig, divisor: int = 32
) -> np.ndarray:
    """(n,) the IoU of each object with its best anchor.

    Of the anchors of one shape the best is the one whose centre is nearest, so that none other needs to be tried.

    Args:
        boxes: (n, 4) XYXY after resizing.
        sizes: (n, 2) height, width of their images after resizing.
        strides: of the pyramid's levels.
        divisor: images are padded to multiples of it.
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
            # Of two intervals whose centres are so far apart.
            shared = np.minimum((extent + shape) / 2 - offset, np.minimum(extent, shape)).clip(min=0).prod(axis=1)
            best = np.maximum(best, shared / (area + side**2 - shared))
    return best


def recall_table(overlap: np.ndarray, sides: np.ndarray) -> list[tuple[str, int, float, float, float]]:
    """By size: objects, their mean best IoU, and the shares of at least 0.5 and 0.7."""
    rows = []
    for low, high in pairwise(SIDES):
        inside = (sides >= low) & (sides < high)
        label = f"{low:g} to {high:g} px" if high < 1e9 else f"over {low:g} px"
        rows.append(_row(label, overlap[inside]))
    return [row for row in rows if row[1]] + [_row("all", overlap)]


def suggest(
    boxes: np.ndarray, sizes: np.ndarray, strides: Sequence[int], most: int = 20_000, seed: int = 0
) -> AnchorConfig:
    """The simplest anchors that overlap the objects about as well as any that were tried.

    Tried are sides that grow with the stride, as anchors of coarse cells are too far apart for small objects: from one
    to eight times the stride, with one to three sizes per level, and shapes as the objects have them.

    Args:
        boxes: (n, 4) XYXY after resizing.
        sizes: (n, 2) of their images.
        most: look at so many objects, drawn at random.
    """
    if len(boxes) > most:
        drawn = np.random.default_rng(seed).choice(len(boxes), most, replace=False)
        boxes, sizes = boxes[drawn], sizes[drawn]
    extent = boxes[:, 2:] - boxes[:, :2]
    shapes = np.quantile(extent[:, 1] / extent[:, 0], (0.15, 0.5, 0.85))
    own = tuple(sorted({round(float(shape), 2) for shape in shapes}))
    tried: list[tuple[float, int, AnchorConfig]] = []
    for ratios in {(0.5, 1.0, 2.0), own}:
        for factor in (1, 1.4, 2, 2.8, 4, 5.6, 8):
            for number in (1, 2, 3):
                levels = tuple(
                    tuple(max(2, round(factor * stride * 2 ** (k / number))) for k in range(number))
                    for stride in strides
                )
                config = AnchorConfig(sizes=levels, ratios=ratios)
                overlap = float(best_overlap(boxes, sizes, strides, config).mean())
                tried.append((overlap, number * len(ratios), config))
    best = max(overlap for overlap, _, _ in tried)
    good = [one for one in tried if one[0] >= best - 0.02]
    return min(good, key=lambda one: (one[1], -one[0]))[2]


def _row(label: str, overlap: np.ndarray) -> tuple[str, int, float, float, float]:
    if not len(overlap):
        return label, 0, float("nan"), float("nan"), float("nan")
    return label, len(overlap), float(overlap.mean()), float((overlap >= 0.5).mean()), float((overlap >= 0.7).mean())
