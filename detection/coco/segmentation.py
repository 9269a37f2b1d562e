"""Check the masks of annotations, and store them in a few arrays: polygons as points, RLE as bytes.

This module checks everything before it calls pycocotools. pycocotools crashes on NaN or infinite coordinates, and
returns uninitialised memory for an RLE that is too short.
"""

import math
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from detection.coco.limits import FARTHEST, LONGEST
from detection.coco.rle import run_lengths

if TYPE_CHECKING:
    from detection.coco.problems import Problems

Segmentation = list[np.ndarray] | dict[str, Any] | None
"""Polygons, each (n, 2) float64 x, y in pixels; or a compressed RLE (``size``, ``counts`` bytes); or unknown."""

Polygon = Sequence[float]
"""x and y alternately, in pixels."""

BARE = "polygons that are not in a list (taken as one)"
SHARED = "RLEs that share a list with others (dropped)"
BROKEN = "polygons with under three points, an odd length, NaN or huge numbers (dropped)"
EMPTY = "masks without a pixel (dropped)"
MASKLESS = "objects without a mask (not learned by the mask head)"

_CHUNK = 65536
"""Number of objects whose polygons are checked at a time; it limits the memory."""


class Segmentations:
    """One segmentation per object, in packed arrays; index it with the object's index."""

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

    @property
    def known(self) -> np.ndarray:
        """Which objects have a segmentation, (m,) bool."""
        return (np.diff(self._parts) > 0) | (np.diff(self._rle_ends) > 0)

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


def read_segmentation(
    entry: Mapping[str, Any], height: int, width: int, problems: "Problems"
) -> tuple[Sequence[Polygon], dict[str, Any] | None]:
    """Return the valid polygons of an annotation, or its RLE (``counts`` is text, bytes, or a list of runs).

    Args:
        entry: the annotation.
        height, width: size of its image.
        problems: counts repaired and dropped parts.

    Raises:
        ValueError: an RLE does not fit its image, or, if ``problems.strict``, a polygon is invalid.
    """
    given = entry.get("segmentation")
    if type(given) is list and given:
        for polygon in given:
            if type(polygon) is not array or not _is_surely_sound(polygon):
                break
        else:
            return given, None  # the normal case
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        given = given[0]
    if isinstance(given, dict) and given:
        return [], _checked_rle(given, entry.get("id"), height, width, problems)
    if not isinstance(given, list) or not given:
        return [], None
    given = _flat(given)
    if all(isinstance(value, int | float) for value in given):
        problems.warn(BARE, entry.get("id"))
        given = [given]
    polygons = [polygon for polygon in map(_row, given) if _is_polygon(polygon)]
    rles = sum(isinstance(value, dict) for value in given)
    for _ in range(rles):
        problems.drop(SHARED, entry.get("id"))
    for _ in range(len(given) - len(polygons) - rles):
        problems.drop(BROKEN, entry.get("id"))
    return polygons, None


def mask_box(entry: Mapping[str, Any], height: int, width: int, problems: "Problems") -> list[float] | None:
    """Return the box (XYWH) around the mask of an annotation; None if it has no usable mask.

    Raises:
        ValueError: as :func:`read_segmentation`.
    """
    silent = problems.empty()
    polygons, rle = read_segmentation(entry, height, width, silent)
    if polygons:
        points = np.concatenate([np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons])
        low, high = points.min(axis=0), points.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]
    if rle is None or not coco_mask.area(rle := compressed(rle)):
        return None
    return [float(value) for value in coco_mask.toBbox(rle)]


def mask_area(polygons: Sequence[Polygon], rle: Mapping[str, Any] | None, height: int, width: int) -> float | None:
    """Return the area in pixels of a result of :func:`read_segmentation`; None without a mask."""
    if polygons:
        rle = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width))
    return None if rle is None else float(coco_mask.area(compressed(rle)))


def compressed(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a checked RLE to the compressed form, with counts as bytes."""
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, list):
        counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


class SegmentationBuilder:
    """Check segmentations one by one, and pack them into arrays."""

    def __init__(self, problems: "Problems", need_masks: bool) -> None:
        self._problems, self._need_masks = problems, need_masks
        self._parts, self._points, self._coordinates = array("q", [0]), array("q", [0]), array("d")
        self._rle_ends, self._rle, self._sizes = array("q", [0]), bytearray(), array("q")
        self.ids: list[object] = []

    def add(self, entry: Mapping[str, Any], height: int, width: int) -> float | None:
        """Add the segmentation of an annotation.

        Returns:
            The object's area: the one in the file if it is a positive number, else the mask's; None without a mask.

        Raises:
            ValueError: the RLE does not fit its image.
        """
        polygons, rle = read_segmentation(entry, height, width, self._problems)
        identity = entry.get("id")
        if rle is not None:
            rle = compressed(rle)
            if coco_mask.area(rle):
                self._rle += rle["counts"]
            else:
                self._problems.drop(EMPTY, identity)
                rle = None
        for polygon in polygons:
            self._coordinates.extend(polygon)
            self._points.append(len(self._coordinates))
        self._parts.append(len(self._points) - 1)
        self._rle_ends.append(len(self._rle))
        self._sizes.append(height)
        self._sizes.append(width)
        self.ids.append(identity)
        if self._need_masks and not polygons and rle is None:
            self._problems.warn(MASKLESS, identity)
        area = entry.get("area")
        if type(area) in (int, float) and 0 < area <= sys.float_info.max:  # type: ignore[operator]  # an int may not fit
            return float(area)  # type: ignore[arg-type]
        return mask_area(polygons, rle, height, width)

    def build(self, xywh: np.ndarray) -> Segmentations:
        """Return all added segmentations, and count polygons with a suspicious shape or position.

        Args:
            xywh: (m, 4) boxes of the objects.
        """
        parts, points = np.array(self._parts), np.array(self._points)
        coordinates = np.frombuffer(self._coordinates, dtype=np.float64)
        for k in _far_from_box(parts, points, coordinates, xywh):
            self._problems.warn("polygons far outside their box (kept; the box is what counts)", self.ids[k])
        for k in _on_a_line(parts, points, coordinates):
            self._problems.warn("polygons whose points lie on one line (kept, as a line)", self.ids[k])
        return Segmentations(
            parts,
            points,
            coordinates,
            np.array(self._rle_ends),
            np.frombuffer(bytes(self._rle), dtype=np.uint8),
            np.array(self._sizes, dtype=np.int64).reshape(-1, 2),
        )


def _checked_rle(
    rle: Mapping[str, Any], identity: object, height: int, width: int, problems: "Problems"
) -> dict[str, Any]:
    where, size, counts = f"{problems.path}: annotation {identity}", rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise ValueError(
            f"{where} has an RLE of size {ascii(size)[:40]}, but its image is {[height, width]} (height, width); "
            "export it again, or correct the image's size"
        )
    try:
        runs = run_lengths({"size": [height, width], "counts": counts})
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where} has a broken RLE: {str(error)[:120]}; export it again or remove it") from error
    return {"size": [height, width], "counts": counts if isinstance(counts, str | bytes) else runs.tolist()}


def _flat(polygon: Any) -> Any:
    """Flatten [x, y] pairs into one list of numbers; return anything else unchanged."""
    if isinstance(polygon, list) and all(isinstance(point, list | array) and len(point) == 2 for point in polygon):
        return [value for point in polygon for value in point]
    return polygon


def _row(polygon: Any) -> Any:
    """Convert pairs, or numbers written as text, into one list of numbers; return anything else unchanged."""
    polygon = _flat(polygon)
    if isinstance(polygon, list) and any(isinstance(value, str) for value in polygon):
        with suppress(TypeError, ValueError, OverflowError):
            return [float(value) for value in polygon]
    return polygon


def _is_surely_sound(polygon: "array[float]") -> bool:
    """Return True for nearly all valid polygons, by a fast check; a valid polygon may still fail it."""
    count = len(polygon)
    # The norm of all coordinates is at least as large as each of them, and NaN or infinite if one of them is.
    return count >= 6 and count % 2 == 0 and math.hypot(*polygon) * count < 6 * FARTHEST


def _is_polygon(polygon: Any) -> bool:
    if not isinstance(polygon, list | array) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        least, most = min(polygon), max(polygon)
        # The sum shows NaN and infinity; minimum and maximum may miss them.
        if not (math.isfinite(sum(polygon)) and least > -FARTHEST and most < FARTHEST):
            return False
    except (TypeError, OverflowError):
        return False
    return len(polygon) * (most - least) <= LONGEST or _outline(polygon) <= LONGEST


def _outline(polygon: Polygon) -> float:
    """Return the length of the outline in steps from pixel to pixel."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _far_from_box(parts: np.ndarray, points: np.ndarray, coordinates: np.ndarray, xywh: np.ndarray) -> Iterator[int]:
    """Yield objects whose polygons extend beyond the box by more than the box's width or height."""
    for start, last, first, stop in _chunks(parts, points):
        own = np.arange(start, last)
        own = own[parts[own + 1] > parts[own]]
        xy, begin = coordinates[first:stop].reshape(-1, 2), (points[parts[own]] - first) // 2
        box = xywh[own]
        over = np.maximum(
            box[:, :2] - np.minimum.reduceat(xy, begin),
            np.maximum.reduceat(xy, begin) - box[:, :2] - box[:, 2:],
        )
        yield from own[(over > box[:, 2:] + 1).any(axis=1)].tolist()


def _on_a_line(parts: np.ndarray, points: np.ndarray, coordinates: np.ndarray) -> Iterator[int]:
    """Yield objects with a polygon whose points lie on one line, once for each such polygon."""
    for start, last, first, stop in _chunks(parts, points):
        ends = points[parts[start] : parts[last] + 1]
        xy, begin = coordinates[first:stop].reshape(-1, 2), (ends[:-1] - first) // 2
        x, y = (xy - np.repeat(xy[begin], np.diff(ends) // 2, axis=0)).T
        following = np.arange(1, len(x) + 1)
        following[(ends[1:] - first) // 2 - 1] = begin
        twice = np.add.reduceat(x * y[following] - x[following] * y, begin)  # the shoelace formula
        side = np.maximum.reduceat(np.maximum(np.abs(x), np.abs(y)), begin)
        for part in np.flatnonzero(np.abs(twice) <= 1e-6 * side**2).tolist():
            # A bow tie has area zero, too. So check the distance of the points from the line to the farthest point.
            own = slice(begin[part], (ends[part + 1] - first) // 2)
            far = begin[part] + int(np.argmax(x[own] ** 2 + y[own] ** 2))
            if np.abs(x[own] * y[far] - x[far] * y[own]).max() <= 1e-6 * side[part] ** 2:
                yield int(np.searchsorted(parts, parts[start] + part, side="right")) - 1


def _chunks(parts: np.ndarray, points: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first object, end object, first coordinate, end coordinate) of each chunk."""
    for start in range(0, len(parts) - 1, _CHUNK):
        last = min(start + _CHUNK, len(parts) - 1)
        yield start, last, int(points[parts[start]]), int(points[parts[last]])
