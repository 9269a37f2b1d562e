"""COCO annotations, checked once and stored in a few arrays.

All worker processes share these arrays. Python objects per annotation would have reference counts, and every access
would make a worker copy their memory.

n images   m objects of all images, ordered by image
"""

from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from detection.categories import Categories
from detection.coco.checks import (
    check_boxes,
    check_categories,
    check_form,
    check_images,
    collect_objects,
    corners,
)
from detection.coco.ids import identity
from detection.coco.keypoints import PIXEL_CENTRE, KeypointBuilder, Keypoints
from detection.coco.limits import MAX_PIXELS
from detection.coco.meaning import FIELDS, IGNORED, check_crowd, count_fields
from detection.coco.problems import Problems
from detection.coco.read import read_coco
from detection.coco.segmentation import Segmentation, SegmentationBuilder, Segmentations
from detection.coco.twins import exact_twins, near_twins
from detection.foreign import shown
from detection.home import with_home
from detection.memory import no_garbage_collection

TWICE = "objects that are annotated twice, with the same class, box and mask (kept: each is learned and scored twice)"


class Annotations:
    """Images and their objects; :func:`load_annotations` creates it.

    Attributes:
        path: the annotation file.
        categories: the classes.
        image_ids: (n,) int64 image IDs.
        sizes: (n, 2) int64 height, width.
        object_ids: (m,) int64, the file's ID of each annotation; -1 if the ID is not an integer.
        report: the repaired and dropped entries, with their IDs.
        annotated: False if the file has only images and no list of annotations.
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
        keypoints: Keypoints | None = None,
    ) -> None:
        self.path, self.categories, self.report, self.annotated = path, categories, problems, annotated
        self.image_ids, self.sizes, self._names = image_ids, sizes, names
        self._starts, self._xywh = starts, xywh
        self._labels, self._crowd, self._area = object_labels, object_crowd, area
        self.object_ids, self._segmentations, self._keypoints = object_ids, segmentations, keypoints

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_objects(self) -> int:
        """Number of objects in all images, including crowds."""
        return len(self._labels)

    @property
    def num_crowds(self) -> int:
        """Number of crowds in all images; training and evaluation ignore them."""
        return int(self._crowd.sum())

    @property
    def has_masks(self) -> bool:
        """Whether at least one object that is not a crowd has a segmentation."""
        return bool((self._segmentations.known & ~self._crowd).any())

    @property
    def has_keypoints(self) -> bool:
        """Whether at least one object that is not a crowd has a labelled keypoint."""
        return self._keypoints is not None and bool((~self._crowd[self._keypoints.owners]).any())

    def file_name(self, i: int) -> str:
        """Return the path of image ``i``, relative to the image folder."""
        return self._names[i]

    def boxes(self, i: int) -> np.ndarray:
        """Return the boxes of image ``i``: (k, 4) float32 XYXY, clipped at the image border."""
        xyxy = corners(self._xywh[self._objects(i)])
        height, width = self.sizes[i]
        return np.clip(xyxy, 0, [width, height, width, height]).astype(np.float32)

    def labels(self, i: int) -> np.ndarray:
        """Return the labels of image ``i``: (k,) int64."""
        return self._labels[self._objects(i)].astype(np.int64)

    def crowd(self, i: int) -> np.ndarray:
        """Return which objects of image ``i`` are crowds: (k,) bool."""
        return self._crowd[self._objects(i)]

    def segmentation(self, i: int, j: int) -> Segmentation:
        """Return the polygons or the RLE of object ``j`` in image ``i``; None if it has no mask."""
        return self._segmentations[int(self._starts[i]) + j]

    def keypoints(self, i: int) -> np.ndarray | None:
        """Return the keypoints of image ``i``: (k, P, 3) float64; None if no class has keypoints.

        P is ``categories.keypoints``. A keypoint is x, y at the centre of its pixel, and 1 (hidden) or 2 (visible); it
        is zero if it is not labelled.
        """
        if self._keypoints is None:
            return None
        found = self._keypoints.of(int(self._starts[i]), int(self._starts[i + 1]))
        found[..., :2] += PIXEL_CENTRE * (found[..., 2:] > 0)
        return found

    def keypoint_counts(self, label: int) -> np.ndarray:
        """Return how often each keypoint of a class is hidden and visible, (N, 2); crowds count, too."""
        count = len(self.categories.skeletons[label].names) if self.categories.skeletons else 0
        if self._keypoints is None:
            return np.zeros((count, 2), dtype=np.int64)
        seen = self._keypoints.points[self._labels[self._keypoints.owners] == label, :count, 2]
        return np.stack([(seen == 1).sum(axis=0), (seen == 2).sum(axis=0)], axis=1)

    def counts(self, crowd: bool | None = None) -> np.ndarray:
        """Return the number of objects per image, (n,).

        Args:
            crowd: True counts only crowds, False counts only other objects, None counts all.
        """
        return np.bincount(self._owners[self._of(crowd)], minlength=len(self))

    def crowds(self) -> np.ndarray:
        """Return which objects are crowds: (m,) bool."""
        return self._crowd

    def class_counts(self, crowd: bool | None = None) -> np.ndarray:
        """Return the number of objects per class, (K,).

        Args:
            crowd: True counts only crowds, False counts only other objects, None counts all.
        """
        return np.bincount(self._labels[self._of(crowd)], minlength=len(self.categories))

    def near_twins(self) -> list[tuple[int, int]]:
        """Return pairs of IDs whose objects have the same image and class and nearly the same box; no exact twins."""
        exact = set(self.exact_twins())
        boxes = corners(self._xywh)
        pairs = (pair for pair in near_twins(self._owners, self._labels, boxes) if pair[1] not in exact)
        return [(int(self.object_ids[first]), int(self.object_ids[second])) for first, second in pairs]

    def exact_twins(self) -> list[int]:
        """Return the indices of objects that equal an earlier object in everything except the ID."""
        return exact_twins(self._owners, self._labels, self._crowd, self._xywh, self._segmentations.__getitem__)

    def to_coco(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the checked annotations as the content of a COCO file.

        Annotation IDs count from 1. Image and category IDs are the original ones.

        Args:
            indices: indices of the images to include; None includes all.
        """
        chosen = range(len(self)) if indices is None else indices
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for i in chosen:
            height, width = (int(side) for side in self.sizes[i])
            image_id = int(self.image_ids[i])
            images.append({"id": image_id, "file_name": self.file_name(i), "height": height, "width": width})
            first, end = int(self._starts[i]), int(self._starts[i + 1])
            points = None if self._keypoints is None else self._keypoints.of(first, end)
            for k in range(first, end):
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
                if points is not None and (names := self.categories.skeletons[self._labels[k]].names):
                    own = points[k - first, : len(names)]
                    entry |= {"keypoints": own.ravel().tolist(), "num_keypoints": int((own[:, 2] > 0).sum())}
                objects.append(entry)
        names, ids = self.categories.names, self.categories.ids
        categories: list[dict[str, Any]] = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
        for category, skeleton in zip(categories, self.categories.skeletons, strict=False):
            category |= skeleton.to_coco() if skeleton.names else {}
        return {"images": images, "annotations": objects, "categories": categories}

    @property
    def _owners(self) -> np.ndarray:
        """Image index of each object, (m,)."""
        return np.repeat(np.arange(len(self)), np.diff(self._starts))

    def _of(self, crowd: bool | None) -> slice | np.ndarray:
        return slice(None) if crowd is None else self._crowd == crowd

    def _objects(self, i: int) -> slice:
        return slice(int(self._starts[i]), int(self._starts[i + 1]))


class Names:
    """A read-only list of strings in a single buffer, without one Python object per string."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode() for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._buffer = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __getitem__(self, i: int) -> str:
        start = 0 if i == 0 else int(self._ends[i - 1])
        return self._buffer[start : int(self._ends[i])].tobytes().decode()


def load_annotations(
    path: str | Path,
    need_masks: bool = False,
    max_pixels: int = MAX_PIXELS,
    known: Callable[[], Categories] | None = None,
) -> Annotations:
    """Read and check a COCO annotation file.

    The function repairs or drops entries whose fix is certain, and counts them in ``report`` with their IDs. Any other
    problem is an error. Images without objects are kept.

    Args:
        path: COCO JSON file.
        need_masks: count objects without a mask; set it for a detector with masks.
        max_pixels: largest number of pixels per image to accept.
        known: set it for prediction, which needs only images. The file may then lack annotations, and categories; the
            function ``known`` returns the categories of a file without any.

    Returns:
        The checked annotations.

    Raises:
        ValueError: the file has a problem without a certain fix. The message has the file, the ID and what to do.

    Example:
        >>> annotations = load_annotations("annotations/instances_val.json")  # doctest: +SKIP
        >>> annotations.boxes(0).shape  # doctest: +SKIP
        (14, 4)
    """
    path = Path(with_home(path))
    content = read_coco(path, optional=() if known is None else ("annotations", "categories"))
    return annotations_of(content, path, need_masks, max_pixels, known)


@no_garbage_collection()  # the collector would scan a million entries again and again
def annotations_of(
    content: dict[str, list[dict[str, Any]]],
    path: Path,
    need_masks: bool = False,
    max_pixels: int = MAX_PIXELS,
    known: Callable[[], Categories] | None = None,
) -> Annotations:
    """Check the lists of a COCO file; arguments and errors as for :func:`load_annotations`.

    Args:
        content: the lists ``images``, ``annotations`` and ``categories``; this function empties it.
        path: file of the lists.
    """
    problems, annotated = Problems(path), "annotations" in content
    if known is not None and "categories" not in content:
        categories = known()
        label_of: dict[int | str, int] = {one: label for label, one in enumerate(categories.ids)}
    else:
        categories, label_of = check_categories(content["categories"], problems)
    image_ids, sizes, names, number_of = check_images(content["images"], problems, max_pixels)
    objects = collect_objects(content.get("annotations", []), number_of, label_of, problems)
    objects.sort(key=itemgetter(0))  # by image; a stable sort keeps the file's order within an image
    xywh, usable = check_boxes(objects, sizes, problems)
    check_form(objects, xywh, sizes, problems)
    counts = np.zeros(len(image_ids) + 1, dtype=np.int64)
    builder, points = SegmentationBuilder(problems, need_masks), KeypointBuilder(categories, problems)
    sides: list[list[int]] = sizes.tolist()
    labels, crowd, areas, ids = array("i"), array("b"), array("d"), array("q")
    content.clear()  # from here on, packing an entry frees its memory
    for k, (i, label, entry) in enumerate(objects):
        objects[k] = None  # type: ignore[call-overload]
        if not usable[k]:
            continue
        height, width = sides[i]
        area = builder.add(entry, height, width)
        counts[i + 1] += 1
        labels.append(label)
        crowd.append(check_crowd(entry, problems))
        points.add(entry, label, crowd[-1] == 1, height, width)
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
        points.build(),
    )
    for k in annotations.exact_twins():
        problems.warn(TWICE, builder.ids[k])
    problems.totals |= dict.fromkeys((TWICE, IGNORED, *FIELDS.values()), len(usable))
    return annotations


def _number(value: object) -> int:
    """Return an annotation's ID if it is a 64-bit integer, else -1."""
    number = value if type(value) is int else identity(value)
    return number if isinstance(number, int) and abs(number) < 2**63 else -1


def check_same_categories(first: Annotations, second: Annotations) -> None:
    """Check that two files have the same classes, with the same IDs and names.

    Raises:
        ValueError: classes differ; the message lists them.
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
