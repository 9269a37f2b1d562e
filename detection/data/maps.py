"""Semantic maps and panoptic segments of the images of a split, out of its files.

H x W image.  With ``stuff``, class 0 of a map stands for all objects, as a Panoptic FPN needs it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from detection.categories import Categories
from detection.coco.annotations import Annotations
from detection.coco.checks import check_categories
from detection.coco.panoptic import PanopticFile, ids_of
from detection.coco.patches import Patch, rle_to_patch
from detection.coco.problems import Problems
from detection.coco.segmentation import Segmentation
from detection.data.label_png import read_label_png
from detection.data.names import leads_out
from detection.documents import read_json
from detection.foreign import shown
from detection.ops.panoptic import Segment
from detection.structures import UNLABELLED
from detection.wording import plural

Wanted = Literal["all", "stuff"]
"""all: every class has its label. stuff: all objects have label 0."""
THINGS, BACKGROUND = "things", "background"


class Maps:
    """The maps of a split; a subclass for each kind of file.

    Args:
        annotations: the images, and their objects.
        categories: the classes of the maps.
    """

    def __init__(self, annotations: Annotations, categories: Categories) -> None:
        if len(categories) > UNLABELLED:
            raise ValueError(f"there are {len(categories)} semantic classes; a map has room for {UNLABELLED}")
        self.annotations, self.categories = annotations, categories
        self._index = {int(one): i for i, one in enumerate(annotations.image_ids)}

    def read(self, i: int) -> np.ndarray:
        """Return the map of image ``i``, (H, W) uint8.

        Raises:
            ValueError: a file is missing or damaged, has another size than the image, or an unknown value.
        """
        raise NotImplementedError

    def segments(self, i: int) -> tuple[np.ndarray, list[Segment]]:
        """Return the segments of image ``i``, for maps of stuff: the map (H, W) int32, and a list.

        Each object is a segment; smaller objects lie on larger ones. The other pixels of a class are one segment.
        """
        semantic, ids = self.read(i), np.zeros(self.size(i), dtype=np.int32)
        segments: list[Segment] = []
        patches = [self.patch(i, k) for k in range(len(self.annotations.labels(i)))]
        crowd, labels = self.annotations.crowd(i), self.annotations.labels(i)
        for k in drawing_order(patches, crowd):
            segments.append(Segment(len(segments) + 1, int(labels[k]), True, is_crowd=bool(crowd[k])))
            ids[patches[k].place][patches[k].pixels] = len(segments)
        shown_ids = set(np.unique(ids).tolist())
        segments = [one for one in segments if one.id in shown_ids]
        number = len(patches)
        for label in np.unique(semantic).tolist():
            region = (semantic == label) & (ids == 0)
            if 0 < label < len(self.categories) and region.any():
                number += 1
                segments.append(Segment(number, label, False))
                ids[region] = number
        return ids, segments

    def semantic(self, image_id: int) -> np.ndarray:
        """Return the map of an image by its ID."""
        return self.read(self._index[image_id])

    def panoptic(self, image_id: int) -> tuple[np.ndarray, list[Segment]]:
        """Return the segments of an image by its ID."""
        return self.segments(self._index[image_id])

    def missing(self) -> list[Path]:
        """Return the files that do not exist."""
        return []

    def size(self, i: int) -> tuple[int, int]:
        """Return height, width of an image."""
        height, width = self.annotations.sizes[i].tolist()
        return height, width

    def patch(self, i: int, k: int) -> Patch:
        """Return the pixels of an object; an empty patch if its mask is unknown."""
        return to_patch(self.annotations.segmentation(i, k), *self.size(i))


class InstanceMaps(Maps):
    """Maps made from the masks of objects; the rest is background. Crowds and boxes without mask are unlabelled."""

    def __init__(self, annotations: Annotations, wanted: Wanted) -> None:
        own = annotations.categories
        free = 0 if 0 not in own.ids else max(own.ids) + 1
        both = Categories((THINGS, BACKGROUND), (0, 1))
        categories = Categories((BACKGROUND, *own.names), (free, *own.ids)) if wanted == "all" else both
        super().__init__(annotations, categories)
        self.wanted = wanted

    def read(self, i: int) -> np.ndarray:
        found = np.full(self.size(i), 0 if self.wanted == "all" else 1, dtype=np.uint8)
        patches = [self.patch(i, k) for k in range(len(self.annotations.labels(i)))]
        labels, crowd, boxes = self.annotations.labels(i), self.annotations.crowd(i), self.annotations.boxes(i)
        for k, patch in enumerate(patches):
            if not patch.pixels.size:
                left, top = np.floor(boxes[k, :2]).astype(int)
                right, bottom = np.ceil(boxes[k, 2:]).astype(int)
                found[top:bottom, left:right] = UNLABELLED
        for k in drawing_order(patches, crowd):
            label = UNLABELLED if crowd[k] else int(labels[k]) + 1 if self.wanted == "all" else 0
            found[patches[k].place][patches[k].pixels] = label
        return found


class LabelMaps(Maps):
    """Maps from PNGs with the ID of a class in each pixel; a PNG has the name of its image.

    Args:
        annotations: the images, and their objects.
        folder: of the PNGs.
        classes: classes by the IDs in the PNGs, and which of them are objects.
        unlabelled: values without a class, if no class has them.
        wanted: labels.
    """

    def __init__(
        self,
        annotations: Annotations,
        folder: Path,
        classes: tuple[Categories, np.ndarray],
        unlabelled: Sequence[int],
        wanted: Wanted,
    ) -> None:
        every, things = classes
        categories, labels = reduced(every, things, wanted)
        super().__init__(annotations, categories)
        self.folder, self._table = folder, np.full(65536, -1, dtype=np.int16)
        for value in unlabelled:
            self._table[value] = UNLABELLED
        for number, label in zip(every.ids, labels, strict=True):
            if not 0 <= number < len(self._table):
                raise ValueError(f"data.semantic_classes: ID {number} is no value of a PNG; use 0 to 65535")
            self._table[number] = label

    def path(self, i: int) -> Path:
        """Return the path of an image's PNG."""
        return inside(self.folder, f"{Path(self.annotations.file_name(i)).with_suffix('')}.png")

    def read(self, i: int) -> np.ndarray:
        values = read_label_png(self.path(i), self.size(i))
        found = self._table[values.clip(0, len(self._table) - 1)]
        if (unknown := found < 0).any():
            some = np.unique(values[unknown])[:5].tolist()
            raise ValueError(
                f"{self.path(i)}: has the values {some}, which are no classes; add them to data.semantic_classes or "
                "data.unlabelled"
            )
        return found.astype(np.uint8)

    def missing(self) -> list[Path]:
        paths = (self.path(i) for i in range(len(self.annotations)))
        return [path for path in paths if not path.is_file()]


class PanopticMaps(Maps):
    """Maps and segments from the panoptic format of COCO.

    Args:
        annotations: the images, and their objects.
        file: of the segments.
        folder: of the PNGs.
        wanted: labels.

    Raises:
        ValueError: an image has no segments, or the classes of objects differ from those of the annotations.
    """

    def __init__(self, annotations: Annotations, file: PanopticFile, folder: Path, wanted: Wanted) -> None:
        categories, labels = reduced(file.categories, file.things, wanted)
        super().__init__(annotations, categories)
        self.file, self.folder, self._labels = file, folder, labels
        ids, names = annotations.image_ids.tolist(), file.categories.names
        if absent := [one for one in ids if one not in file]:
            raise ValueError(f"{file.path}: has no segments of {plural(len(absent), 'image')}, first {absent[0]}")
        pairs = [(number, names[k]) for k, number in enumerate(file.categories.ids) if file.things[k]]
        own = list(zip(annotations.categories.ids, annotations.categories.names, strict=True))
        if wanted == "stuff" and pairs != own:
            differ = next(iter(sorted(set(pairs) ^ set(own))))
            raise ValueError(
                f"{file.path}: its classes of objects differ from those of {annotations.path}, first "
                f"{differ[0]}: {shown(differ[1])}"
            )

    def path(self, i: int) -> Path:
        """Return the path of an image's PNG."""
        return inside(self.folder, self.file.png(int(self.annotations.image_ids[i])))

    def read(self, i: int) -> np.ndarray:
        ids, numbers, labels, _ = self._segments(i)
        order = np.argsort(numbers)
        table = np.append(self._labels[labels[order]], UNLABELLED).astype(np.uint8)
        place = np.searchsorted(numbers[order], ids)
        return np.where(ids > 0, table[place], UNLABELLED).astype(np.uint8)

    def segments(self, i: int) -> tuple[np.ndarray, list[Segment]]:
        ids, numbers, labels, crowd = self._segments(i)
        things, rank = self.file.things, np.cumsum(self.file.things) - 1
        return ids, [
            Segment(
                int(number),
                int(rank[label] if things[label] else self._labels[label]),
                bool(things[label]),
                is_crowd=bool(is_crowd),
            )
            for number, label, is_crowd in zip(numbers, labels, crowd, strict=True)
        ]

    def _segments(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the PNG's IDs (H, W), and the IDs, labels and crowd of its segments."""
        ids = ids_of(read_label_png(self.path(i), self.size(i), colour=True))
        numbers, labels, crowd = self.file.segments(int(self.annotations.image_ids[i]))
        there = np.unique(ids)
        if unknown := np.setdiff1d(there, np.append(numbers, 0)).tolist():
            raise ValueError(f"{self.path(i)}: has segments {unknown[:5]}, which {self.file.path} does not list")
        shown_here = np.isin(numbers, there)
        return ids, numbers[shown_here], labels[shown_here], crowd[shown_here]

    def missing(self) -> list[Path]:
        paths = (self.path(i) for i in range(len(self.annotations)))
        return [path for path in paths if not path.is_file()]


def reduced(every: Categories, things: np.ndarray, wanted: Wanted) -> tuple[Categories, np.ndarray]:
    """Return the classes of maps, and the label (n,) int64 of each of n classes.

    Raises:
        ValueError: maps of stuff are wanted, and there is no stuff.
    """
    if wanted == "all":
        return every, np.arange(len(every))
    stuff = np.flatnonzero(~things).tolist()
    if not stuff:
        raise ValueError("all semantic classes are objects; a Panoptic FPN needs a class of stuff, with isthing 0")
    labels = np.zeros(len(every), dtype=np.int64)
    labels[stuff] = np.arange(1, 1 + len(stuff))
    names, ids = (THINGS, *(every.names[k] for k in stuff)), (0, *(every.ids[k] for k in stuff))
    return Categories(names, ids), labels


def read_classes(path: Path, objects: Categories) -> tuple[Categories, np.ndarray]:
    """Read the classes of label PNGs: a list of ``id``, ``name`` and perhaps ``isthing``, or ``categories`` of a file.

    Returns:
        The classes, and which of them are objects: those with ``isthing`` 1, or those that ``objects`` has.

    Raises:
        ValueError: the file is missing or invalid.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of classes; set data.semantic_classes")
    content: Any = read_json(path)
    entries = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: has no list of classes; write [{{'id': 0, 'name': 'sky'}}, ...]")
    categories, label_of = check_categories(entries, Problems(path))
    things, known = np.zeros(len(categories), dtype=bool), set(zip(objects.ids, objects.names, strict=True))
    for entry in entries:
        label = label_of[entry["id"]]
        is_known = (categories.ids[label], categories.names[label]) in known
        things[label] = entry.get("isthing", is_known) in (1, True)
    return categories, things


def drawing_order(patches: Sequence[Patch], crowd: np.ndarray) -> list[int]:
    """Return the objects with pixels in the order of drawing: crowds, then the others, large ones first."""
    areas = np.array([patch.pixels.sum() for patch in patches], dtype=np.int64)
    order = np.lexsort((-areas, ~crowd)) if len(patches) else np.zeros(0, dtype=np.int64)
    return [int(k) for k in order if areas[k]]


def to_patch(segmentation: Segmentation, height: int, width: int) -> Patch:
    """Return the pixels of a segmentation; an empty patch if it is unknown."""
    if isinstance(segmentation, dict):
        return rle_to_patch(segmentation)
    polygons = [np.asarray(polygon, dtype=np.float64).ravel().tolist() for polygon in segmentation or ()]
    if not polygons:
        return Patch(0, 0, np.zeros((0, 0), dtype=bool))
    return rle_to_patch(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def inside(folder: Path, name: str) -> Path:
    """Return folder / name.

    Raises:
        ValueError: the name leads out of the folder.
    """
    if leads_out(name):
        raise ValueError(f"{folder}: the file name {shown(name)} leads out of the folder; correct it")
    return folder / name
