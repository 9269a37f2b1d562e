"""COCO annotations, checked once and kept as a few arrays.

Every worker process reads the same arrays: there are no Python objects per annotation, whose reference counts would
make each worker copy them.

n images   m objects of all images, ordered by image
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.report import Report
from detection.data.segmentation import SegmentationBuilder, Segmentations
from detection.structures import Categories, Segmentation

MIN_SIDE = 0.1
"""Objects whose box, cut at the image, has a shorter side (in pixels) are dropped: nothing could find them."""


class Annotations:
    """Images and their objects; made by :func:`load_annotations`.

    Attributes:
        path: the annotation file.
        categories: the classes.
        image_ids: (n,) int64.
        sizes: (n, 2) int64 height, width.
        report: what was mended or dropped, and the ids.
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
        area: np.ndarray,
        segmentations: Segmentations,
        report: Report,
    ) -> None:
        self.path, self.categories, self.report = path, categories, report
        self.image_ids, self.sizes, self._names = image_ids, sizes, names
        self._starts, self._xywh = starts, xywh
        self._labels, self._crowd, self._area = object_labels, object_crowd, area
        self._segmentations = segmentations

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_objects(self) -> int:
        """Objects of all images."""
        return len(self._labels)

    def file_name(self, i: int) -> str:
        """Where the ``i``-th image is, below the image folder."""
        return self._names[i]

    def boxes(self, i: int) -> np.ndarray:
        """(k, 4) float32 XYXY, cut at the image."""
        xyxy = _xyxy(self._xywh[self._objects(i)])
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

    def counts(self) -> np.ndarray:
        """(n,) objects per image."""
        return np.diff(self._starts)

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


def load_annotations(path: str | Path, need_masks: bool = False) -> Annotations:
    """Read and check a COCO annotation file.

    What can be mended without a guess is mended or dropped, counted in ``report`` with its ids; what cannot is an
    error. Images without objects are kept.

    Args:
        need_masks: for a detector with masks: objects without one are counted.

    Raises:
        ValueError: with the file, the id, and what to do.
    """
    path = Path(path)
    content = _parse(path)
    report = Report(path)
    categories = _categories(content["categories"], report)
    image_ids, sizes, names = _images(content["images"], report)
    objects = _objects_by_image(content["annotations"], image_ids, categories, report)
    xywh, usable = _boxes(objects, sizes, report)
    starts = np.zeros(len(image_ids) + 1, dtype=np.int64)
    builder = SegmentationBuilder(report, need_masks)
    labels, crowd, areas, boxes = [], [], [], []
    label_of = {category_id: label for label, category_id in enumerate(categories.ids)}
    for (i, entry), box, good in zip(objects, xywh, usable, strict=True):
        if not good:
            continue
        height, width = sizes[i]
        area = builder.add(entry, int(height), int(width), entry.get("area"))
        starts[i + 1] += 1
        labels.append(label_of[entry["category_id"]])
        crowd.append(bool(entry.get("iscrowd", 0)))
        areas.append(area if area is not None else box[2] * box[3])
        boxes.append(box)
    return Annotations(
        path,
        categories,
        image_ids,
        sizes,
        Names(names),
        starts.cumsum(),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int32),
        np.array(crowd, dtype=bool),
        np.array(areas, dtype=np.float64),
        builder.build(),
        report,
    )


def check_same_categories(first: Annotations, second: Annotations) -> None:
    """Refuse two files whose classes differ in name, id or number.

    Raises:
        ValueError: with the classes that differ.
    """
    one = dict(zip(first.categories.ids, first.categories.names, strict=True))
    other = dict(zip(second.categories.ids, second.categories.names, strict=True))
    lines = [
        f"  id {key}: {one.get(key, 'none')!r} and {other.get(key, 'none')!r}"
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


def _parse(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such annotation file; check data.root and the annotations of the split")
    try:
        # utf-8-sig swallows the byte order mark that some editors write.
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({str(error)[:120]}); is the file complete?") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a COCO file holds an object with images, annotations, categories, not a list")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path}: has no list {key!r}; a COCO file has images, annotations and categories")
        for k, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise ValueError(f"{path}: {key}[{k}] is {str(entry)[:60]!r}, not an object; remove or correct it")
    return content


def _categories(entries: list[dict[str, Any]], report: Report) -> Categories:
    if not entries:
        raise ValueError(f"{report.path}: categories is empty; list the classes as {{'id': 1, 'name': 'cat'}}")
    for entry in entries:
        if not _is_integer(entry.get("id")) or not isinstance(entry.get("name"), str):
            raise ValueError(f"{report.path}: category {str(entry)[:80]} needs an integer id and a name")
    categories = Categories.from_coco(entries)
    if len(set(categories.ids)) < len(categories):
        twice = sorted({i for i in categories.ids if categories.ids.count(i) > 1})
        raise ValueError(f"{report.path}: category ids {twice[:5]} occur twice; give each class its own")
    for name in sorted({n for n in categories.names if categories.names.count(n) > 1}):
        report.warn("category names that occur twice", name)
    return categories


def _images(entries: list[dict[str, Any]], report: Report) -> tuple[np.ndarray, np.ndarray, list[str]]:
    seen: set[int] = set()
    for entry in entries:
        image_id, name = entry.get("id"), entry.get("file_name")
        if not _is_integer(image_id):
            raise ValueError(f"{report.path}: image {str(entry)[:80]} needs an integer id")
        assert isinstance(image_id, int)
        if image_id in seen:
            raise ValueError(f"{report.path}: image id {image_id} occurs twice; give each image its own")
        seen.add(image_id)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{report.path}: image {image_id} has no file_name")
        for side in ("height", "width"):
            if not _is_integer(entry.get(side)) or entry[side] < 1:
                raise ValueError(f"{report.path}: image {image_id} has {side} {entry.get(side)!r}; give it in pixels")
    ids = np.array([entry["id"] for entry in entries], dtype=np.int64)
    sizes = np.array([(entry["height"], entry["width"]) for entry in entries], dtype=np.int64).reshape(-1, 2)
    return ids, sizes, [entry["file_name"] for entry in entries]


def _objects_by_image(
    entries: list[dict[str, Any]], image_ids: np.ndarray, categories: Categories, report: Report
) -> list[tuple[int, dict[str, Any]]]:
    """(image number, entry) of every object whose image and class exist, by image, else in the file's order."""
    number = {image_id: i for i, image_id in enumerate(image_ids.tolist())}
    known, unknown = set(categories.ids), []
    seen: set[Any] = set()
    objects = []
    for entry in entries:
        identity, image_id = entry.get("id"), entry.get("image_id")
        if isinstance(identity, int | str):
            if identity in seen:
                report.warn("annotation ids that occur twice (numbered anew)", identity)
            seen.add(identity)
        if not isinstance(entry.get("category_id"), int) or entry["category_id"] not in known:
            unknown.append((identity, entry.get("category_id")))
        elif not isinstance(image_id, int) or image_id not in number:
            report.warn("annotations of images that are not listed (dropped)", identity)
        else:
            objects.append((number[image_id], entry))
    if unknown:
        pairs = ", ".join(f"{identity} (category {category!r})" for identity, category in unknown[:5])
        raise ValueError(
            f"{report.path}: {len(unknown)} annotations have a category_id that is not in categories: {pairs}; "
            "add the category or remove the annotations"
        )
    objects.sort(key=lambda pair: pair[0])
    return objects


def _boxes(
    objects: list[tuple[int, dict[str, Any]]], sizes: np.ndarray, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """XYWH (m, 4) float64 as the file has them, and which are usable."""
    rows: list[Any] = []
    for i, entry in objects:
        box = entry.get("bbox")
        if box is None:
            box = SegmentationBuilder.box(entry, *(int(side) for side in sizes[i]))
            if box is None:
                report.warn("annotations with neither a box nor a mask (dropped)", entry.get("id"))
                box = [0.0, 0.0, 0.0, 0.0]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            raise ValueError(
                f"{report.path}: annotation {entry.get('id')} has bbox {str(box)[:60]}; it must be four numbers: "
                "left, top, width, height"
            )
        rows.append(box)
    xywh = np.array(rows, dtype=np.float64).reshape(-1, 4)
    numbers = np.array([i for i, _ in objects], dtype=np.int64)
    limit = sizes[numbers][:, [1, 0, 1, 0]].astype(np.float64).reshape(-1, 4)  # width, height, twice
    with np.errstate(invalid="ignore", over="ignore"):
        xyxy = _xyxy(xywh)
        clipped = np.clip(xyxy, 0, limit)
        finite = np.isfinite(xyxy).all(axis=1)
        flat = finite & (xywh[:, 2:] <= 0).any(axis=1)
        sides = clipped[:, 2:] - clipped[:, :2]
        outside = finite & ~flat & (sides <= 0).any(axis=1)
        small = finite & ~flat & ~outside & (sides < MIN_SIDE).any(axis=1)
        # A thousandth of a pixel is rounding, not a box that reaches over the border.
        partly = finite & ~flat & ~outside & (np.abs(clipped - xyxy) > 1e-3).any(axis=1)
    for kind, rows_of_kind in [
        ("boxes that are not finite (dropped)", ~finite),
        ("boxes without area (dropped)", flat),
        ("boxes outside their image (dropped)", outside),
        (f"boxes with a side under {MIN_SIDE} pixels (dropped)", small),
        ("boxes that reach over their image (cut)", partly),
    ]:
        for k in rows_of_kind.nonzero()[0].tolist():
            report.warn(kind, objects[k][1].get("id"))
    return xywh, finite & ~flat & ~outside & ~small


def _xyxy(xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
