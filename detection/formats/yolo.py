"""Read and write YOLO: one text file per image, one line per object.

A line has the class number, and a box or a polygon in fractions of the image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pycocotools import mask as coco_mask

from detection.data.image import shown_size
from detection.documents import read_text
from detection.foreign import shown
from detection.formats.account import Account
from detection.formats.outlines import MOST_PARTS, joined, rle_outlines
from detection.formats.places import places
from detection.formats.yolo_folders import Labelled, find_images, unused_labels
from detection.formats.yolo_lines import annotation, parse_line
from detection.formats.yolo_settings import YoloSettings, find_settings
from detection.wording import plural

LARGEST_LABELS = 64 << 20
"""Largest text file in bytes: a million boxes."""


def write_yolo(coco: Mapping[str, Any], folder: Path, segments: bool = False) -> Account:
    """Write one text file per image, and a ``data.yaml`` with the class names.

    Args:
        coco: content of a COCO file.
        folder: output folder.
        segments: write polygons instead of boxes. Lines of zero width connect the parts and holes of an object. An
            object without a mask gets its box as a polygon.

    Raises:
        ValueError: two images would get the same text file.
    """
    account = Account()
    targets = places(coco["images"], folder / "labels", ".txt")
    labels = {c["id"]: k for k, c in enumerate(coco["categories"])}
    names = {c["id"]: c["name"] for c in coco["categories"]}
    images = {image["id"]: image for image in coco["images"]}
    lines: dict[Any, list[str]] = {image_id: [] for image_id in images}
    for entry in coco["annotations"]:
        image = images[entry["image_id"]]
        if entry.get("iscrowd"):
            account.lose("crowds (YOLO has no crowds)")
            continue
        sides = np.array([image["width"], image["height"]], dtype=np.float64)
        if segments:
            points, form = _polygon(entry, image["height"], image["width"], account)
            values = (_within(points, sides, account, "polygons") / sides).ravel()
        else:
            form = "boxes"
            account.lose("masks (kept with --segments)", bool(entry.get("segmentation")))
            x, y, w, h = entry["bbox"]
            low, high = _within(np.array([[x, y], [x + w, y + h]]), sides, account, "boxes")
            values = np.concatenate([(low + high) / 2 / sides, (high - low) / sides])
        account.lose("keypoints", bool(entry.get("num_keypoints")))
        account.take(names[entry["category_id"]], form)
        numbers = [str(labels[entry["category_id"]]), *(f"{value:.17g}" for value in values.tolist())]
        lines[image["id"]].append(" ".join(numbers))
    for image_id, own in lines.items():
        account.take_image(len(own))
        target = targets[image_id]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{line}\n" for line in own), encoding="utf-8")
    listed = {"names": {k: c["name"] for k, c in enumerate(coco["categories"])}}
    (folder / "data.yaml").write_text(yaml.safe_dump(listed, allow_unicode=True), encoding="utf-8")
    return account


def read_yolo(
    labels: Path, images: Path | None = None, names: Sequence[str] | None = None, split: str | None = None
) -> tuple[dict[str, Any], Account]:
    """Read all images and labels below a folder into a COCO dict; category IDs count from 1.

    Image sizes are those after the EXIF rotation, as YOLO's tools use them.

    Args:
        labels: folder of text files, or the folder or ``data.yaml`` of a whole data set. An image without a text file
            has no objects.
        images: image folder. None takes the one in ``data.yaml``, or the one beside the labels.
        names: class names. None reads them from ``data.yaml``, ``classes.txt``, ``obj.names`` or ``notes.json``.
        split: a split in ``data.yaml``; None reads all.

    Raises:
        ValueError: a line is not in YOLO's format; the message has the file and the line number. Also if there are no
            images, objects or names, if the names are not numbered from 0 without gaps, or if two images share a text
            file.
    """
    account = Account()
    settings = find_settings(labels, names)
    listed = find_images(labels, images, split, settings, account)
    return coco_of(listed, settings, labels, account), account


def coco_of(listed: Sequence[Labelled], settings: YoloSettings, labels: Path, account: Account) -> dict[str, Any]:
    """Return a COCO dict of the images from ``find_images``, like :func:`read_yolo`.

    Args:
        listed: images and their text files.
        settings: class names and keypoints.
        labels: path for the error message if there is no object.
        account: gets the counts.

    Raises:
        ValueError: a line is not in YOLO's format, or there is no object.
    """
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(listed, start=1):
        height, width = shown_size(one.image)
        entries.append({"id": number, "file_name": one.name, "height": height, "width": width})
        before = len(annotations)
        for where, line in _lines(one):
            label, values = parse_line(line, where, len(settings.names), settings.keypoints)
            found, form = annotation(values, width, height, settings.keypoints)
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
            annotations.append(ids | found)
            account.take(settings.names[label], form)
        account.take_image(len(annotations) - before)
    if not annotations:
        raise ValueError(f"{labels}: {_why_none(listed)}")
    absent = sum(not one.label.is_file() for one in listed)
    account.notes.append(f"names: {len(settings.names)}, from {settings.source}")
    account.notes.append(f"images without a text file: {absent} (taken as background)")
    account.lose("text files without an image", unused_labels(listed))
    categories: list[dict[str, Any]] = [{"id": k, "name": name} for k, name in enumerate(settings.names, start=1)]
    if settings.keypoints:
        for category in categories:
            category |= {"keypoints": settings.keypoint_names, "skeleton": []}
    return {"images": entries, "annotations": annotations, "categories": categories}


def _polygon(entry: Mapping[str, Any], height: int, width: int, account: Account) -> tuple[np.ndarray, str]:
    """Return one polygon (k, 2) in pixels for an object, and its original form."""
    mask = entry.get("segmentation")
    if not mask:
        x, y, w, h = entry["bbox"]
        account.change("objects without a mask (now rectangles)")
        return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], dtype=np.float64), "rectangles"
    if isinstance(mask, dict):
        parts, form = rle_outlines(mask), "RLE outlines"
    else:
        parts, form = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in mask], "polygons"
        if len(parts) > 1:
            parts = _apart(parts, height, width)
    account.change(
        "outlines of parts or holes joined to their object by a line of zero width", min(len(parts), MOST_PARTS) - 1
    )
    account.lose(f"outlines of parts or holes beyond the {MOST_PARTS} largest of their object", len(parts) - MOST_PARTS)
    return joined(parts), form


def _apart(parts: list[np.ndarray], height: int, width: int) -> list[np.ndarray]:
    """Return the polygons, or the outlines of their union if joining the polygons would create a hole."""

    def drawn(polygons: Sequence[np.ndarray]) -> Any:
        rows = [polygon.ravel().tolist() for polygon in polygons]
        return coco_mask.merge(coco_mask.frPyObjects(rows, height, width))

    whole = drawn(parts)
    same = float(coco_mask.iou([whole], [drawn([joined(parts)])], [0])[0, 0])
    return parts if same > 0.98 or not coco_mask.area(whole) else rle_outlines(whole)


def _within(points: np.ndarray, sides: np.ndarray, account: Account, kind: str) -> np.ndarray:
    """Clip points at the image border, because YOLO's tools drop objects that extend beyond it."""
    inside = points.clip(0, sides)
    account.change(f"{kind} cut at the edge of their image", bool((np.abs(inside - points) > 1e-3).any()))
    return inside


def _lines(one: Labelled) -> list[tuple[str, str]]:
    """Return (place, line) for each line that is not empty."""
    if not one.label.is_file():
        return []
    lines = read_text(one.label, LARGEST_LABELS).split("\n")
    return [(f"{shown(one.label, None)}, line {k}", line) for k, line in enumerate(lines, start=1) if line.strip()]


def _why_none(listed: Sequence[Labelled]) -> str:
    there = sum(one.label.is_file() for one in listed)
    if there:
        return f"no objects: {plural(there, 'text file is', 'text files are')} empty; check that these are the labels"
    return (
        f"no objects: none of {plural(len(listed), 'image')} has a text file; for {shown(listed[0].name)} the toolkit "
        f"expects {shown(listed[0].label, None)}; give the folder of the labels, and --images"
    )
