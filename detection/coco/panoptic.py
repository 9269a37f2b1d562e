"""Read the panoptic format of COCO: a JSON file with the segments of each image, and a PNG of their IDs.

A pixel belongs to segment R + 256 G + 65536 B of its PNG; 0 means no segment.
"""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.categories import Categories
from detection.coco.checks import check_categories
from detection.coco.problems import Problems
from detection.documents import read_json
from detection.foreign import shown

MOST = 2**24 - 1
"""Largest ID of a segment: three bytes."""


class PanopticFile:
    """The segments of images; :func:`read_panoptic` creates it.

    Attributes:
        path: the JSON file.
        categories: all classes, by category ID.
        things: (classes,) bool: which classes are objects.
        images: entries of the images, as in the file.
    """

    def __init__(
        self, path: Path, categories: Categories, things: np.ndarray, images: Sequence[Mapping[str, Any]]
    ) -> None:
        self.path, self.categories, self.things, self.images = path, categories, things, images
        self._number: dict[int, int] = {}
        self._names: list[str] = []
        self._starts, self._ids, self._labels, self._crowd = array("q", [0]), array("q"), array("i"), array("b")

    def add(self, image_id: int, name: str, segments: Sequence[tuple[int, int, bool]]) -> None:
        """Add an image: the name of its PNG, and the ID, label and crowd of each segment."""
        self._number[image_id] = len(self._names)
        self._names.append(name)
        for one, label, crowd in segments:
            self._ids.append(one)
            self._labels.append(label)
            self._crowd.append(crowd)
        self._starts.append(len(self._ids))

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._number

    def png(self, image_id: int) -> str:
        """Return the name of an image's PNG."""
        return self._names[self._number[image_id]]

    def segments(self, image_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return IDs (n,) int64, labels (n,) int64 and crowd (n,) bool of an image's segments."""
        place = slice(*self._starts[self._number[image_id] : self._number[image_id] + 2])
        ids, labels = (np.array(values[place], dtype=np.int64) for values in (self._ids, self._labels))
        return ids, labels, np.array(self._crowd[place], dtype=bool)


def read_panoptic(path: str | Path) -> PanopticFile:
    """Read and check a COCO panoptic file.

    Raises:
        ValueError: the file is missing or invalid, a segment has an unknown class or an ID out of range, or two
            segments of an image have one ID. The message names the place.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such panoptic file; set data.root or the split's panoptic")
    content = read_json(path, long_list="annotations")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise ValueError(f"{path}: has no list {key!r}; give a file in COCO's panoptic format")
        if not all(isinstance(entry, Mapping) for entry in content[key]):
            raise ValueError(f"{path}: {key} has an entry that is no object; remove or correct it")
    categories, label_of = check_categories(content["categories"], Problems(path))
    things = np.zeros(len(categories), dtype=bool)
    for entry in content["categories"]:
        if entry.get("isthing") not in (0, 1):
            raise ValueError(f"{path}: category {shown(entry.get('id'))} has no isthing of 0 or 1; add it")
        things[label_of[entry["id"]]] = entry["isthing"]
    found = PanopticFile(path, categories, things, content["images"])
    for entry in content["annotations"]:
        image_id, name = entry.get("image_id"), entry.get("file_name")
        if type(image_id) is not int or not isinstance(name, str) or image_id in found:
            raise ValueError(
                f"{path}: an annotation has image_id {shown(image_id)}; give each image one, with file_name"
            )
        found.add(image_id, name, _segments(entry, image_id, label_of, path))
    return found


def _segments(
    entry: Mapping[str, Any], image_id: int, label_of: Mapping[int | str, int], path: Path
) -> list[tuple[int, int, bool]]:
    """Return the ID, label and crowd of the segments of an image."""
    segments = entry.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(one, Mapping) for one in segments):
        raise ValueError(f"{path}: image {image_id} has no list segments_info; add it")
    found = []
    for one in segments:
        number, category = one.get("id"), one.get("category_id")
        if type(number) is not int or not 0 < number <= MOST:
            raise ValueError(f"{path}: image {image_id} has a segment with ID {shown(number)}; it must be 1 to {MOST}")
        if type(category) is not int or category not in label_of:
            raise ValueError(f"{path}: segment {number} of image {image_id} has unknown category {shown(category)}")
        if one.get("iscrowd", 0) not in (0, 1):
            raise ValueError(f"{path}: segment {number} of image {image_id} has an iscrowd that is not 0 or 1")
        found.append((number, label_of[category], bool(one.get("iscrowd", 0))))
    if len({number for number, _, _ in found}) < len(found):
        raise ValueError(f"{path}: image {image_id} has two segments with one ID; give each its own")
    return found


def ids_of(colours: np.ndarray) -> np.ndarray:
    """Return the segment IDs (H, W) int32 of a panoptic PNG (H, W, 3) uint8 RGB."""
    red, green, blue = (colours[..., k].astype(np.int32) for k in range(3))
    return red + 256 * green + 65536 * blue


def colours_of(ids: np.ndarray) -> np.ndarray:
    """Return the panoptic PNG (H, W, 3) uint8 RGB of segment IDs (H, W)."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
