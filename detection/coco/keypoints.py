"""Check the keypoints of annotations, and store them in a few arrays.

m objects   P keypoints of the class with the most; the rows of other classes end in zeros.
A keypoint is x, y and 0 (not labelled), 1 (labelled, hidden) or 2 (labelled, visible).
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.categories import Categories
from detection.coco.flags import is_number
from detection.coco.limits import FARTHEST

if TYPE_CHECKING:
    from detection.coco.problems import Problems

PIXEL_CENTRE = 0.5
"""COCO's files count pixels from 0. Here pixel (0, 0) covers [0, 1) x [0, 1), so its centre is half a pixel further."""

MOST_KEYPOINTS = 1000
"""Largest number of keypoints of a class."""

UNLISTED = "objects with keypoints, though their category lists no names of keypoints (keypoints dropped)"
UNEQUAL = "objects whose keypoints are not three numbers for each name of their category (keypoints dropped)"
ODD = "keypoints whose third number is not 0, 1 or 2 (dropped)"
BROKEN = "keypoints with NaN, infinite or huge coordinates (dropped)"
OUTSIDE = "keypoints outside their image (not learned)"
MISCOUNTED = "objects whose num_keypoints is not the number of their labelled keypoints (counted from the keypoints)"
POINTLESS = "objects without labelled keypoints (not learned by a keypoint head)"


def skeleton_entries(entry: Mapping[str, Any], problems: "Problems") -> dict[str, Any]:
    """Return the checked ``keypoints`` and ``skeleton`` of a category; empty if it has no keypoints.

    Raises:
        ValueError: the names are not a list of text, or there are too many of them.
    """
    names = entry.get("keypoints")
    if names is None or names == []:
        return {}
    where = f"{problems.path}: category {entry.get('id')}"
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} has keypoints {ascii(names)[:60]}; they must be a list of names")
    if len(names) > MOST_KEYPOINTS:
        raise ValueError(f"{where} has {len(names)} keypoints; the most are {MOST_KEYPOINTS}")
    given = entry.get("skeleton") or []
    edges = [edge for edge in given if is_edge(edge, len(names))] if isinstance(given, list | tuple) else []
    for _ in range(len(given) - len(edges) if isinstance(given, list | tuple) else 1):
        problems.warn("edges of a skeleton that are not two numbers of keypoints, from 1 on (dropped)", entry.get("id"))
    return {"keypoints": list(names), "skeleton": [list(edge) for edge in edges]}


def keypoint_row(entry: Mapping[str, Any], count: int, problems: "Problems") -> list[float] | None:
    """Return the numbers of an annotation's keypoints as in the file; None if it has none.

    Args:
        count: number of keypoints of its class.

    Raises:
        ValueError: the numbers are not those of ``count`` keypoints, and ``problems.strict`` is set.
    """
    given = entry.get("keypoints")
    if given is None or given == []:
        return None
    if not count:
        if not _is_zero(given):
            problems.drop(UNLISTED, entry.get("id"))
        return None
    if not isinstance(given, list | tuple) or len(given) != 3 * count or not all(map(is_number, given)):
        problems.drop(UNEQUAL, entry.get("id"))
        return None
    return list(given)


def sound_keypoints(points: np.ndarray, ids: Sequence[object], problems: "Problems") -> np.ndarray:
    """Return keypoints (r, P, 3), with zeros instead of those that cannot be used; count the latter.

    Args:
        ids: the ID of each of the r annotations.

    Raises:
        ValueError: there are such keypoints, and ``problems.strict`` is set.
    """
    odd = ~np.isin(points[..., 2], (0, 1, 2))
    with np.errstate(invalid="ignore"):
        broken = ~odd & (points[..., 2] > 0) & ~(np.abs(points[..., :2]) <= FARTHEST).all(axis=2)
    for kind, found in ((ODD, odd), (BROKEN, broken)):
        for row in np.nonzero(found)[0].tolist():
            problems.drop(kind, ids[row])
    return np.where((odd | broken | (points[..., 2] == 0))[..., None], 0, points)


class Keypoints:
    """The keypoints of the objects that have any.

    Args:
        owners: (r,) int64 increasing indices of the objects.
        points: (r, P, 3) float64, coordinates as in the file.
    """

    def __init__(self, owners: np.ndarray, points: np.ndarray) -> None:
        self.owners, self.points = owners, points

    def of(self, first: int, end: int) -> np.ndarray:
        """Return the keypoints of objects, (end - first, P, 3) float64, coordinates as in the file."""
        found = np.zeros((end - first, *self.points.shape[1:]))
        rows = slice(*np.searchsorted(self.owners, (first, end)).tolist())
        found[self.owners[rows] - first] = self.points[rows]
        return found


class KeypointBuilder:
    """Check keypoints one by one, and pack them into arrays.

    Args:
        categories: the classes.
    """

    def __init__(self, categories: Categories, problems: "Problems") -> None:
        self._problems, self._most = problems, categories.keypoints
        self._counts = [len(one.names) for one in categories.skeletons] or [0] * len(categories)
        self._owners, self._numbers, self._total = array("q"), array("d"), 0
        self._entries: list[tuple[object, object, int, int]] = []  # ID, num_keypoints, height, width

    def add(self, entry: Mapping[str, Any], label: int, crowd: bool, height: int, width: int) -> None:
        """Add an object with the size of its image; count its keypoints if they do not fit its class."""
        count = self._counts[label]
        row = keypoint_row(entry, count, self._problems)
        if row is not None and any(row[2::3]):
            self._owners.append(self._total)
            self._numbers.extend(row + [0.0] * (3 * (self._most - count)))
            self._entries.append((entry.get("id"), entry.get("num_keypoints"), height, width))
        elif count and not crowd:
            self._problems.note(POINTLESS, entry.get("id"))
        self._total += 1

    def build(self) -> Keypoints | None:
        """Return the keypoints of all added objects; None if no class has any."""
        if not self._most:
            return None
        ids = [entry[0] for entry in self._entries]
        numbers = np.frombuffer(self._numbers, dtype=np.float64).reshape(-1, self._most, 3)
        points = sound_keypoints(numbers, ids, self._problems)
        sizes = np.array([[width, height] for _, _, height, width in self._entries]).reshape(-1, 1, 2)
        labelled = points[..., 2] > 0
        outside = labelled & ((points[..., :2] < -PIXEL_CENTRE) | (points[..., :2] > sizes - PIXEL_CENTRE)).any(axis=2)
        for row in np.nonzero(outside)[0].tolist():
            self._problems.warn(OUTSIDE, ids[row])
        counts = labelled.sum(axis=1).tolist()
        for (one, stated, *_), count in zip(self._entries, counts, strict=True):
            if stated is not None and stated != count:
                self._problems.warn(MISCOUNTED, one)
        self._problems.totals |= dict.fromkeys((POINTLESS, MISCOUNTED), self._total)
        self._problems.totals[OUTSIDE] = int(labelled.sum())
        return Keypoints(np.array(self._owners, dtype=np.int64), points)


def is_edge(edge: Any, count: int) -> bool:
    """Return whether a value is a pair of numbers of ``count`` keypoints, from 1 on."""
    return isinstance(edge, list | tuple) and len(edge) == 2 and all(type(k) is int and 1 <= k <= count for k in edge)


def _is_zero(given: Any) -> bool:
    return isinstance(given, list | tuple) and not any(given)
