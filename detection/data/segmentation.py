"""Masks of all objects in a few arrays: polygons as points, RLE as bytes.

Nothing reaches pycocotools unchecked: it crashes on a coordinate that is not finite, and returns memory that was
never written for an RLE that is too short.
"""

import math
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detection.data.report import Report
from detection.ops.masks import run_lengths
from detection.structures import Segmentation

FARTHEST = 100_000.0
"""Polygon coordinates beyond are refused; larger ones make pycocotools crash."""


class Segmentations:
    """One segmentation per object, read by its number."""

    def __init__(
        self,
        parts: np.ndarray,
        points: np.ndarray,
        coordinates: np.ndarray,
        rle_ends: np.ndarray,
        rle: np.ndarray,
        sizes: np.ndarray,
    ) -> None:
        self._parts, self._points, self._coordinates = parts, points, coordinates
        self._rle_ends, self._rle, self._sizes = rle_ends, rle, sizes

    def __getitem__(self, k: int) -> Segmentation:
        first, last = self._parts[k], self._parts[k + 1]
        if last > first:
            ends = self._points[first : last + 1]
            return [self._coordinates[a:b].reshape(-1, 2) for a, b in pairwise(ends)]
        start, end = self._rle_ends[k], self._rle_ends[k + 1]
        if end > start:
            height, width = self._sizes[k].tolist()
            return {"size": [height, width], "counts": self._rle[start:end].tobytes()}
        return None


class SegmentationBuilder:
    """Checks the segmentations one by one and packs them."""

    def __init__(self, report: Report, need_masks: bool) -> None:
        self._report, self._need_masks = report, need_masks
        self._parts, self._points, self._coordinates = array("q", [0]), array("q", [0]), array("d")
        self._rle_ends, self._rle, self._sizes = array("q", [0]), bytearray(), array("q")

    def add(self, entry: dict[str, Any], height: int, width: int, area: object) -> float | None:
        """Take the segmentation of an annotation.

        Returns:
            The object's area: the given one if it is a number, else the mask's, or None without a mask.

        Raises:
            ValueError: an RLE that does not fit its image.
        """
        polygons, rle = self._read(entry, height, width)
        for polygon in polygons:
            self._coordinates.extend(polygon)
            self._points.append(len(self._coordinates))
        self._parts.append(len(self._points) - 1)
        if rle is not None:
            self._rle += rle["counts"]
        self._rle_ends.append(len(self._rle))
        self._sizes.extend((height, width))
        if not polygons and rle is None and self._need_masks:
            self._report.warn("objects without a mask (the mask head does not learn from them)", entry.get("id"))
        if isinstance(area, int | float) and not isinstance(area, bool) and math.isfinite(area) and area > 0:
            return float(area)
        if polygons:
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return None if rle is None else float(coco_mask.area(rle))

    def build(self) -> Segmentations:
        """Everything taken so far."""
        return Segmentations(
            np.array(self._parts),
            np.array(self._points),
            np.array(self._coordinates, dtype=np.float64),
            np.array(self._rle_ends),
            np.frombuffer(bytes(self._rle), dtype=np.uint8),
            np.array(self._sizes, dtype=np.int64).reshape(-1, 2),
        )

    @staticmethod
    def box(entry: dict[str, Any], height: int, width: int) -> list[float] | None:
        """XYWH around the mask of an annotation without a box; None if it has no usable mask."""
        silent = SegmentationBuilder(Report(Path()), False)
        polygons, rle = silent._read(entry, height, width)
        if polygons:
            points = np.concatenate([np.array(polygon).reshape(-1, 2) for polygon in polygons])
            low, high = points.min(axis=0), points.max(axis=0)
            return [*low.tolist(), *(high - low).tolist()]
        return None if rle is None else [float(value) for value in coco_mask.toBbox(rle)]

    def _read(self, entry: dict[str, Any], height: int, width: int) -> tuple[list[list[float]], dict[str, Any] | None]:
        given = entry.get("segmentation")
        if isinstance(given, dict):
            return [], self._read_rle(given, entry.get("id"), height, width)
        if not isinstance(given, list) or not given:
            return [], None
        if all(isinstance(value, int | float) for value in given):
            self._report.warn("polygons that are not in a list (taken as one)", entry.get("id"))
            given = [given]
        polygons = []
        for polygon in given:
            if _is_polygon(polygon):
                polygons.append(polygon)
            else:
                self._report.warn("polygons of under three points, odd or not finite (dropped)", entry.get("id"))
        return polygons, None

    def _read_rle(self, rle: dict[str, Any], identity: object, height: int, width: int) -> dict[str, Any]:
        where = f"{self._report.path}: annotation {identity}"
        size, counts = rle.get("size"), rle.get("counts")
        if size != [height, width]:
            raise ValueError(f"{where} has an RLE of size {size} on an image of {[height, width]} (height, width)")
        try:
            runs = run_lengths({"size": size, "counts": counts})
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{where} has a broken RLE: {error}; export it again or remove it") from error
        if isinstance(counts, str):
            return {"size": size, "counts": counts.encode()}
        packed = coco_mask.frPyObjects({"size": size, "counts": runs.tolist()}, height, width)
        return {"size": size, "counts": packed["counts"]}


def _is_polygon(polygon: object) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        return all(-FARTHEST < value < FARTHEST for value in polygon)  # false for NaN
    except TypeError:
        return False
