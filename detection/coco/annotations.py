"""COCO annotations, checked once and kept as a few arrays.

Every worker process reads the same arrays: there are no Python objects per annotation, whose reference counts would
make each worker copy them.

n images   m objects of all images, ordered by image
"""

from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from detection.coco.checks import (
    check_boxes,
    check_categories,
    check_form,
    check_images,
    collect_objects,
    corners,
)
from detection.coco.ids import identity
from detection.coco.limits import MAX_PIXELS
from detection.coco.meaning import FIELDS, IGNORED, check_crowd, count_fields
from detection.coco.problems import Problems
from detection.coco.read import read_coco
from detection.coco.segmentation import Segmentation, SegmentationBuilder, Segmentations
from detection.coco.twins import exact_twins, near_twins
from detection.foreign import shown
from detection.home import with_home
from detection.memory import no_garbage_collection
from detection.structures import Categories

TWICE = "objects that are annotated twice, with the same class, box and mask (kept: each is learned and scored twice)"


class Annotations:
    """Images and their objects; made by :func:`load_annotations`.

    Attributes:
        path: the annotation file.
        categories: the classes.
        image_ids: (n,) int64.
        sizes: (n, 2) int64 height, width.
        object_ids: (m,) int64, the file's id of each annotation; -1 where that is no number.
        report: what was repaired or dropped, and the ids.
        annotated: whether the file has annotations at all; False for one of images alone.
    """

    def __init__(
        self,
        path: Path,
        categories: Categories,
        image_ids: np.ndarray,
        sizes: np.ndarray,
        names: "Names",
        starts: np.ndarray,
        xywh: np.ndarray,
        object_labels: np.ndarray,
        object_crowd: np.ndarray,
        object_ids: np.ndarray,
        area: np.ndarray,
        segmentations: Segmentations,
        problems: Problems,
        annotated: bool = True,
    ) -> None:
        self.path, self.categories, self.report, self.annotated = path, categories, problems, annotated
        self.image_ids, self.sizes, self._names = image_ids, sizes, names
        self._starts, self._xywh = starts, xywh
        self._labels, self._crowd, self._area = object_labels, object_crowd, area
        self.object_ids, self._segmentations = object_ids, segmentations

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_objects(self) -> int:
        """Objects of all images, crowds included."""
        return len(self._labels)

    @property
    def num_crowds(self) -> int:
        """Crowds of all images: neither learned nor scored."""
        return int(self._crowd.sum())

    @property
    def has_masks(self) -> bool:
        """Whether an object that is no crowd has a segmentation."""
        return bool((self._segmentations.known & ~self._crowd).any())

    def file_name(self, i: int) -> str:
        """Where the ``i``-th image is, below the image folder."""
        return self._names[i]

    def boxes(self, i: int) -> np.ndarray:
        """(k, 4) float32 XYXY, cut at the image."""
        xyxy = corners(self._xywh[self._objects(i)])
        height, width = self.sizes[i]
        return np.clip(xyxy, 0, [width, height, width, height]).astype(np.float32)

    def labels(self, i: int) -> np.ndarray:
        """(k,) int64."""
        return self._labels[self._objects(i)].astype(np.int64)

    def crowd(self, i: int) -> np.ndarray:
        """(k,) bool."""
        return self._crowd[self._objects(i)]

    def segmentation(self, i: int, j: int) -> Segmentation:
        """Polygons or RLE of the ``j``-th object of the ``i``-th image; None if it has none."""
        return self._segmentations[int(self._starts[i]) + j]

    def counts(self, crowd: bool | None = None) -> np.ndarray:
        """(n,) objects per image: with ``crowd`` True crowds alone, with False all others."""
        return np.bincount(self._owners[self._of(crowd)], minlength=len(self))

    def crowds(self) -> np.ndarray:
        """(m,) bool: which objects are crowds."""
        return self._crowd

    def class_counts(self, crowd: bool | None = None) -> np.ndarray:
        """(K,) objects per class: with ``crowd`` True crowds alone, with False all others."""
        return np.bincount(self._labels[self._of(crowd)], minlength=len(self.categories))

    def near_twins(self) -> list[tuple[int, int]]:
        """Ids of objects of one image and class that have nearly the same box, but are not the same annotation."""
        exact = set(self.exact_twins())
        boxes = corners(self._xywh)
        pairs = (pair for pair in near_twins(self._owners, self._labels, boxes) if pair[1] not in exact)
        return [(int(self.object_ids[first]), int(self.object_ids[second])) for first, second in pairs]

    def exact_twins(self) -> list[int]:
        """Numbers of the objects that an earlier one equals in all but the id."""
        return exact_twins(self._owners, self._labels, self._crowd, self._xywh, self._segmentations.__getitem__)

    def to_coco(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
        """The checked ground truth as a COCO file's content: annotation ids from 1, original image and category ids.

        Args:
            indices: of the images; all if None.
        """
        chosen = range(len(self)) if indices is None else indices
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for i in chosen:
            height, width = (int(side) for side in self.sizes[i])
            image_id = int(self.image_ids[i])
            images.append({"id": image_id, "file_name": self.file_name(i), "height": height, "width": width})
            for k in range(int(self._starts[i]), int(self._starts[i + 1])):
                entry: dict[str, Any] = {
                    "id": len(objects) + 1,
                    "image_id": image_id,
                    "category_id": self.categories.ids[self._labels[k]],
                    "bbox": [float(value) for value in self._xywh[k]],
                    "area": float(self._area[k]),
                    "iscrowd": int(self._crowd[k]),
                }
                segmentation = self._segmentations[k]
                if isinstance(segmentation, list):
                    entry["segmentation"] = [polygon.ravel().tolist() for polygon in segmentation]
                elif segmentation is not None:
                    entry["segmentation"] = {**segmentation, "counts": segmentation["counts"].decode()}
                objects.append(entry)
        names, ids = self.categories.names, self.categories.ids
        categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
        return {"images": images, "annotations": objects, "categories": categories}

    @property
    def _owners(self) -> np.ndarray:
        """(m,) the image of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self._starts))

    def _of(self, crowd: bool | None) -> slice | np.ndarray:
        return slice(None) if crowd is None else self._crowd == crowd

    def _objects(self, i: int) -> slice:
        return slice(int(self._starts[i]), int(self._starts[i + 1]))


class Names:
    """Many strings in one buffer."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode() for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._buffer = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __getitem__(self, i: int) -> str:
        start = 0 if i == 0 else int(self._ends[i - 1])
        return self._buffer[start : int(self._ends[i])].tobytes().decode()


@no_garbage_collection()  # it would look through a million entries again and again
def load_annotations(
    path: str | Path,
    need_masks: bool = False,
    max_pixels: int = MAX_PIXELS,
    known: Callable[[], Categories] | None = None,
) -> Annotations:
    """Read and check a COCO annotation file.

    What can be repaired without a guess is repaired or dropped, counted in ``report`` with its ids; what cannot is an
    error. Images without objects are kept.

    Args:
        need_masks: for a detector with masks: objects without one are counted.
        max_pixels: images that claim more are rejected.
        known: for prediction, which needs images alone: the file may have no annotations, and no categories, which
            this then gives.

    Raises:
        ValueError: with the file, the id, and what to do.
    """
    path = Path(with_home(path))
    content = read_coco(path, optional=() if known is None else ("annotations", "categories"))
    problems, annotated = Problems(path), "annotations" in content
    if known is not None and "categories" not in content:
        categories = known()
        label_of: dict[int | str, int] = {one: label for label, one in enumerate(categories.ids)}
    else:
        categories, label_of = check_categories(content["categories"], problems)
    image_ids, sizes, names, number_of = check_images(content["images"], problems, max_pixels)
    objects = collect_objects(content.get("annotations", []), number_of, label_of, problems)
    objects.sort(key=itemgetter(0))  # of one image: in the file's order
    xywh, usable = check_boxes(objects, sizes, problems)
    check_form(objects, xywh, sizes, problems)
    counts = np.zeros(len(image_ids) + 1, dtype=np.int64)
    builder = SegmentationBuilder(problems, need_masks)
    sides: list[list[int]] = sizes.tolist()
    labels, crowd, areas, ids = array("i"), array("b"), array("d"), array("q")
    content.clear()  # from here on, each entry is freed when it is packed
    for k, (i, label, entry) in enumerate(objects):
        objects[k] = None  # type: ignore[call-overload]
        if not usable[k]:
            continue
        height, width = sides[i]
        area = builder.add(entry, height, width)
        counts[i + 1] += 1
        labels.append(label)
        crowd.append(check_crowd(entry, problems))
        count_fields(entry, height, width, problems)
        ids.append(_number(entry.get("id")))
        areas.append(xywh[k, 2] * xywh[k, 3] if area is None else area)
    xywh = xywh[usable]
    annotations = Annotations(
        path,
        categories,
        image_ids,
        sizes,
        Names(names),
        counts.cumsum(),
        xywh,
        np.array(labels, dtype=np.int32),
        np.array(crowd, dtype=bool),
        np.array(ids, dtype=np.int64),
        np.array(areas, dtype=np.float64),
        builder.build(xywh),
        problems,
        annotated,
    )
    for k in annotations.exact_twins():
        problems.warn(TWICE, builder.ids[k])
    problems.totals |= dict.fromkeys((TWICE, IGNORED, *FIELDS.values()), len(usable))
    return annotations


def _number(value: object) -> int:
    """An annotation's id as an int64; -1 for what is none."""
    number = value if type(value) is int else identity(value)
    return number if isinstance(number, int) and abs(number) < 2**63 else -1


def check_same_categories(first: Annotations, second: Annotations) -> None:
    """Refuse two files whose classes differ in name, id or number.

    Raises:
        ValueError: with the classes that differ.
    """
    one = dict(zip(first.categories.ids, first.categories.names, strict=True))
    other = dict(zip(second.categories.ids, second.categories.names, strict=True))
    lines = [
        f"  id {key}: {shown(one.get(key, 'none'))!r} and {shown(other.get(key, 'none'))!r}"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]
    if lines:
        more = f"\n  and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise ValueError(
            f"{first.path} and {second.path} have different categories; give both files the same list\n"
            + "\n".join(lines[:8])
            + more
        )
