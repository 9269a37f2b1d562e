"""Detect the box format of an annotation file. COCO uses left, top, width, height in pixels; others are common.

This module tries every other format on the data. It counts the boxes that then are inside their image, agree with their
mask, and have the area that the file states. It changes nothing; it only reports the likely format with these numbers.

m boxes
"""

from itertools import product

import numpy as np
import torch

from detection.coco.hint import WIDESPREAD, Hint
from detection.ops.boxes import iou

LAYOUTS = {
    "left, top, width, height": (lambda a, b, c, d: (a, b, a + c, b + d)),
    "left, top, right, bottom": (lambda a, b, c, d: (a, b, c, d)),
    "centre x, centre y, width, height": (lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2)),
    "top, left, height, width": (lambda a, b, c, d: (b, a, b + d, a + c)),
    "top, left, bottom, right": (lambda a, b, c, d: (b, a, d, c)),
    "left, right, top, bottom": (lambda a, b, c, d: (a, c, b, d)),
}
"""For each layout, the function from its four numbers to left, top, right, bottom."""

UNITS = {"pixels": 0.0, "fractions of the image": 1.0, "percent of the image": 100.0}
"""For each unit, the side length of the whole image; 0 for pixels."""

COCO = ("left, top, width, height", "pixels")

MOST, LEAST_SIDE, FEWEST = 101.0, 200.0, 20
"""Thresholds for boxes in percent: their largest number, the shortest image side, and the fewest boxes.

If these were pixels, all boxes would be in one corner of their image. For 20 boxes or more that is very unlikely."""

TESTS = {
    "inside": "lie inside their image",
    "masks": "agree with their masks",
    "areas": "have the stated area",
}


def likely_form(boxes: np.ndarray, limits: np.ndarray, masks: np.ndarray, areas: np.ndarray) -> Hint | None:
    """Return a hint with the format that fits the boxes better than COCO's format.

    Args:
        boxes: (m, 4) the four numbers in the file.
        limits: (m, 2) width, height of the images.
        masks: (m, 4) left, top, right, bottom of the masks; NaN if not known.
        areas: (m,) the areas in the file, for objects without a mask; NaN if not known.

    Returns:
        The hint, or None if COCO's format fits, or no format does.
    """
    if not len(boxes):
        return None
    given = _evidence(COCO, boxes, limits, masks, areas)
    fewest = 1 if _in_the_corner(boxes).any() else 2
    doubts = {test for test in TESTS if _is_doubtful(given[test], fewest)}
    if not doubts:
        return None if given["masks"].any() else _in_percent(boxes, limits)
    best: list[tuple[str, str]] = []
    reason, top = "", 0.0
    for unit, layout in product(UNITS, LAYOUTS):
        form = layout, unit
        found = _evidence(form, boxes, limits, masks, areas)
        asked = (
            doubts - {"inside"} if unit == "percent of the image" else doubts
        )  # in percent, all small boxes are inside
        explained = [test for test in TESTS if test in asked and _explains(found[test], given[test])]
        if form == COCO or not explained or not _is_sound(found, given):
            continue
        rank = sum(_share(found[test]) for test in TESTS if len(found[test]))
        if rank > top + 0.02:
            best, reason, top = [], explained[0], rank
        if rank > top - 0.02 and all(unit == other for _, other in best):
            best.append(form)
    if not best:
        return None
    return _described(best, reason, given, boxes, limits, masks, areas)


def _in_percent(boxes: np.ndarray, limits: np.ndarray) -> Hint | None:
    """Return a hint if the numbers cover 0 to 100 for every image size, and never exceed it: likely percent."""
    large = (limits >= LEAST_SIDE).all(axis=1)  # on smaller images, pixels and percent look alike
    boxes = boxes[large]
    if len(boxes) < FEWEST or len(boxes) < 0.5 * len(limits) or not (boxes <= MOST).all():
        return None
    fitting = []
    for layout, read in LAYOUTS.items():
        xyxy = np.stack(read(*boxes.T), axis=1)
        low, high = xyxy[:, :2], xyxy[:, 2:]
        inside = (high > low).all() and (xyxy >= -1).all() and (xyxy <= MOST).all()
        centres = np.quantile((low + high) / 2, [0.1, 0.9], axis=0)
        if inside and (low.min(0) <= 10).all() and (high.max(0) >= 90).all() and (np.diff(centres, axis=0) >= 30).all():
            fitting.append(layout)
    if not fitting:
        return None
    layout, *others = fitting
    also = f" (or {' or '.join(others)})" if others else ""
    return Hint(
        f"the boxes look like {layout}{also} in percent of the image, not {COCO[0]} in {COCO[1]}: the numbers of all "
        f"{len(boxes)} boxes in images of at least {LEAST_SIDE:g} x {LEAST_SIDE:g} pixels are between "
        f"{boxes.min():.3g} and {boxes.max():.3g}; convert them (nothing was changed)",
        grave=True,
    )


def _evidence(
    form: tuple[str, str], boxes: np.ndarray, limits: np.ndarray, masks: np.ndarray, areas: np.ndarray
) -> dict[str, np.ndarray]:
    """Return, for each test, whether each box passes it; only boxes that have the data for the test."""
    layout, unit = form
    whole = UNITS[unit]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        xyxy = np.stack(LAYOUTS[layout](*boxes.T), axis=1)
        if whole:
            xyxy = xyxy / whole * np.concatenate([limits, limits], axis=1)
        extent = xyxy[:, 2:] - xyxy[:, :2]
        slack = np.maximum(1.0, 0.01 * limits)
        inside = (
            (extent > 0).all(axis=1) & (xyxy[:, :2] >= -slack).all(axis=1) & (xyxy[:, 2:] <= limits + slack).all(axis=1)
        )
        if not whole:  # a box inside the first pixel is likely a fraction of the image
            inside &= ~_in_the_corner(boxes)
        stated = ~np.isnan(areas)
        measured = extent[stated].prod(axis=1)
        with_mask = ~np.isnan(masks).any(axis=1)
        read, drawn = (torch.from_numpy(box[with_mask])[:, None] for box in (xyxy, masks))
        return {
            "inside": inside,
            "masks": iou(read, drawn).flatten().numpy() > 0.8,
            "areas": np.abs(measured - areas[stated]) <= 0.02 * areas[stated] + 1,
        }


def _in_the_corner(boxes: np.ndarray) -> np.ndarray:
    return (np.abs(boxes) <= 1).all(axis=1)


def _is_doubtful(passed: np.ndarray, fewest: int) -> bool:
    """Return whether enough boxes fail for other formats to be tried."""
    failed = int((~passed).sum())
    return failed >= fewest and failed > (0.02 if failed >= 3 else 0.5) * len(passed)


def _explains(found: np.ndarray, given: np.ndarray) -> bool:
    """Return whether at most 10% of the boxes fail, and at most 10% as many as with COCO's format."""
    failed, before = (~found).sum(), (~given).sum()
    return bool(failed <= 0.1 * len(found) and failed <= 0.1 * before)


def _is_sound(found: dict[str, np.ndarray], given: dict[str, np.ndarray]) -> bool:
    """Return whether nearly all boxes are inside their image, and as many agree with masks as with COCO's format."""
    return _share(found["inside"]) >= 0.95 and _share(found["masks"]) >= _share(given["masks"]) - 0.02


def _share(passed: np.ndarray) -> float:
    return float(passed.mean()) if len(passed) else 0.0


def _described(forms: list[tuple[str, str]], reason: str, given: dict[str, np.ndarray], *data: np.ndarray) -> Hint:
    """Return a hint that names the format, with the numbers of every test."""
    (layout, unit), *others = forms
    found = _evidence(forms[0], *data)
    numbers = [
        f"{int(found[test].sum())} of {len(found[test])} {words} (in COCO's format {int(given[test].sum())})"
        for test, words in TESTS.items()
        if len(found[test])
    ]
    also = f" (or {' or '.join(other for other, _ in others)})" if others else ""
    text = (
        f"the boxes look like {layout}{also} in {unit}, not {COCO[0]} in {COCO[1]}: then {', '.join(numbers)}; "
        "convert them (nothing was changed)"
    )
    failed, corner = 1 - _share(given[reason]), float(_in_the_corner(data[0]).mean())
    return Hint(text, grave=failed > WIDESPREAD, unusable=corner >= 0.9 and unit != "pixels")
