"""How many cells of an anchor-free detector learn each object of a data set, after resizing.

n objects.  An object without a cell is never learnt (Tian et al. 2020, FCOS, section 3).
"""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np

from detection.doctor.anchors import SIDES
from detection.models.fcos import FCOSConfig


def positive_cells(
    boxes: np.ndarray, sizes: np.ndarray, strides: Sequence[int], config: FCOSConfig, divisor: int = 32
) -> np.ndarray:
    """Return the number of cells, (n,), that would learn each object if it were alone in its image.

    Args:
        boxes: (n, 4) XYXY after resizing.
        sizes: (n, 2) height, width of their images after resizing.
        strides: of the pyramid's levels.
        divisor: images are padded to multiples of it.
    """
    middle, canvas = (boxes[:, :2] + boxes[:, 2:]) / 2, np.ceil(sizes[:, ::-1] / divisor) * divisor  # x, y
    limits = [0.0, *(config.reach * stride for stride in strides[:-1]), np.inf]
    around = range(-int(np.ceil(config.radius)), int(np.ceil(config.radius)) + 2)
    number = np.zeros(len(boxes), dtype=np.int64)
    for stride, (low, high) in zip(strides, pairwise(limits), strict=True):
        nearest = np.floor(middle / stride - config.offset)
        for step in product(around, around):
            cell = nearest + step
            point = (cell + config.offset) * stride
            distance = np.concatenate([point - boxes[:, :2], boxes[:, 2:] - point], axis=1)
            farthest = distance.max(axis=1)
            number += (
                ((cell >= 0) & (cell * stride < canvas)).all(axis=1)
                & (np.abs(point - middle).max(axis=1) < config.radius * stride)
                & (distance.min(axis=1) > 0)
                & (farthest > low)
                & (farthest <= high)
            )
    return number


def cells_table(number: np.ndarray, sides: np.ndarray) -> list[tuple[str, int, float, float]]:
    """Return rows by size: objects, their mean number of cells, and the share without one."""
    rows = []
    for low, high in pairwise(SIDES):
        inside = (sides >= low) & (sides < high)
        rows.append(_row(f"{low:g} to {high:g} px" if high < 1e9 else f"over {low:g} px", number[inside]))
    return [row for row in rows if row[1]] + [_row("all", number)]


def _row(label: str, number: np.ndarray) -> tuple[str, int, float, float]:
    if not len(number):
        return label, 0, float("nan"), float("nan")
    return label, len(number), float(number.mean()), float((number == 0).mean())
