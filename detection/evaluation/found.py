"""The detections of one image as the evaluator keeps them, checks of those in result files, and boxes around them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from detection.coco.rle import run_lengths, sound_counts


class Found(NamedTuple):
    """The n detections of one image, for one IoU type."""

    scores: np.ndarray
    categories: np.ndarray
    """(n,) int64, original category IDs."""
    values: Any
    """bbox: (n, 4) float64 x, y, width, height. segm: n compressed RLE counts (str). keypoints: (n, N, 3) float64."""
    areas: np.ndarray | None = None
    """(n,) mask areas in pixels, if known."""


KEYS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
"""The key of a COCO result that each IoU type scores."""

NOTHING = Found(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros((0, 4)), np.zeros(0))


def whole_masks(
    images: Mapping[int, Sequence[tuple[float, int, Any]]], sizes: Mapping[int, tuple[int, int]]
) -> set[int]:
    """Return the images whose masks are all valid compressed RLEs; the caller checks the others one by one.

    Args:
        images: (score, category, RLE) of the detections, by image ID.
        sizes: height, width by image ID.
    """
    candidates: list[int] = []
    owners: list[int] = []
    texts: list[str] = []
    pixels: list[int] = []
    for image_id, entries in images.items():
        height, width = sizes[image_id]
        rles = [entry[2] for entry in entries]
        if height and all(type(r["counts"]) is str and [*r["size"]] == [height, width] for r in rles):
            texts += [rle["counts"] for rle in rles]
            owners += [len(candidates)] * len(rles)
            pixels += [height * width] * len(rles)
            candidates.append(image_id)
    broken = {owners[k] for k in np.flatnonzero(~sound_counts(texts, np.array(pixels, dtype=np.int64))).tolist()}
    return {image_id for k, image_id in enumerate(candidates) if k not in broken}


def checked_counts(image_id: int, rle: Mapping[str, Any], height: int, width: int) -> str:
    """Return the compressed counts of a result's RLE.

    Raises:
        ValueError: the RLE does not fit its image.
    """
    if list(rle["size"]) != [height, width]:
        raise ValueError(
            f"image {image_id}: RLE of size {rle['size']}, but the image is {height} x {width}; predict it again"
        )
    try:
        runs = run_lengths(rle)
    except (TypeError, ValueError) as error:
        raise ValueError(f"image {image_id}: {error}") from None
    counts = rle["counts"]
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"]
    return counts.decode() if isinstance(counts, bytes) else counts


def sound_boxes(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return which detections have finite numbers and no negative size, (n,) bool; boxes are (n, 4) XYXY."""
    return np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)


def box_of(one: Mapping[str, Any]) -> list[float]:
    """Return the box (x, y, width, height) of an annotation or a result: its own, or around its mask or keypoints."""
    if "bbox" in one:
        return list(one["bbox"])
    if "keypoints" in one:
        x, y, _ = np.reshape(one["keypoints"], (-1, 3)).T
        return [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))] if len(x) else [0.0] * 4
    return [float(value) for value in coco_mask.toBbox(one["segmentation"])]
