"""Parse a line of a YOLO label file: a class number, then a box, a polygon, or a box and keypoints."""

from typing import Any

import numpy as np

from detection.foreign import shown
from detection.wording import plural

FARTHEST = 2.0
"""Limit of coordinates, in fractions of the image. A value of 2 or more, or below -1, is probably in pixels."""


def parse_line(line: str, where: str, classes: int, keypoints: tuple[int, int] | None) -> tuple[int, np.ndarray]:
    """Return the class and the numbers after it.

    Args:
        line: text of the line.
        where: start of the error messages, such as the file and the line number.
        classes: number of classes.
        keypoints: ``kpt_shape``: keypoints per object, and numbers per keypoint (2 or 3).

    Raises:
        ValueError: the line has no class and numbers, an unknown class, or not the numbers of a box, polygon or pose.
    """
    try:
        first, *rest = (_number(word) for word in line.split())
    except ValueError as error:
        raise ValueError(
            f"{where}: {shown(line.strip())!r} is not a class number and coordinates; correct the line"
        ) from error
    if first not in range(classes):
        raise ValueError(
            f"{where}: class {shown(line.split()[0])}, but names exist only for 0 to {classes - 1}; correct one of them"
        )
    values = np.array(rest)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: {shown(line.strip())!r} contains NaN or infinity; correct or remove the line")
    places = values
    if keypoints is not None and len(values) > 4:
        number, each = keypoints
        if len(values) != 4 + number * each:
            raise ValueError(
                f"{where}: {plural(len(values), 'number')}; a box with kpt_shape [{number}, {each}] needs "
                f"{4 + number * each}"
            )
        points = values[4:].reshape(number, each)
        if each == 3 and not np.isin(points[:, 2], (0, 1, 2)).all():
            raise ValueError(f"{where}: a keypoint's third number must be 0, 1 or 2 (absent, hidden, visible)")
        places = np.concatenate([values[:4], points[:, :2].ravel()])
    elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{where}: {plural(len(values), 'number')}; a box has 4, a polygon has x and y of at least 3 points; for "
            "keypoints add kpt_shape to data.yaml, and remove the scores of predictions"
        )
    if (places < 1 - FARTHEST).any() or (places >= FARTHEST).any():
        raise ValueError(
            f"{where}: {shown(line.strip())!r} is far outside the image; write fractions of the image from 0 to 1, "
            "not pixels; for keypoints add kpt_shape to data.yaml"
        )
    return int(first), values


def annotation(
    values: np.ndarray, width: int, height: int, keypoints: tuple[int, int] | None
) -> tuple[dict[str, Any], str]:
    """Return a COCO annotation without IDs, and the kind of object for the counts."""
    if keypoints is None and len(values) > 4:
        points = values.reshape(-1, 2) * [width, height]
        low, high = points.min(axis=0), points.max(axis=0)
        form = "polygons of four points, such as oriented boxes" if len(points) == 4 else "polygons"
        box = [*low.tolist(), *(high - low).tolist()]
        return {"bbox": box, "iscrowd": 0, "segmentation": [points.ravel().tolist()]}, form
    centre, size = values[:4].reshape(2, 2) * [width, height]
    box = [*(centre - size / 2).tolist(), *size.tolist()]
    entry: dict[str, Any] = {"bbox": box, "iscrowd": 0, "area": box[2] * box[3]}
    if keypoints is None or len(values) == 4:
        return entry, "boxes"
    entry["keypoints"], entry["num_keypoints"] = _keypoints(values[4:].reshape(keypoints), width, height)
    return entry, "boxes with keypoints"


def _keypoints(points: np.ndarray, width: int, height: int) -> tuple[list[float], int]:
    """Return x, y, visibility of each keypoint in COCO's format, and the number of annotated ones."""
    # Without a third number, YOLO's tools treat a point at (0, 0) or with a negative coordinate as not annotated.
    there = (points >= 0).all(axis=1) & (points > 0).any(axis=1)
    seen: np.ndarray = points[:, 2] if points.shape[1] == 3 else np.where(there, 2, 0)
    places = np.where(seen[:, None] > 0, points[:, :2] * [width, height], 0)
    triples = [[x, y, int(v)] for (x, y), v in zip(places.tolist(), seen.tolist(), strict=True)]
    return [value for triple in triples for value in triple], int((seen > 0).sum())


def _number(word: str) -> float:
    if "_" in word:  # Python would read 1_0 as 10
        raise ValueError(word)
    return float(word)
