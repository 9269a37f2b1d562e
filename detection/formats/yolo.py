"""YOLO: a text file per image; a line per object: its class number and a box or a polygon, in parts of the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detection.data.image import image_size
from detection.formats.lost import Lost
from detection.formats.places import places

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def write_yolo(coco: Mapping[str, Any], folder: Path, segments: bool = False) -> Lost:
    """Write a text file for each image, and ``data.yaml`` with the names.

    Args:
        segments: write polygons, the largest of each object; an object without one gets its box as a polygon.

    Raises:
        ValueError: two images whose text files would be one.
    """
    lost = Lost()
    targets = places(coco["images"], folder / "labels", ".txt")
    labels = {c["id"]: k for k, c in enumerate(coco["categories"])}
    images = {image["id"]: image for image in coco["images"]}
    lines: dict[Any, list[str]] = {image_id: [] for image_id in images}
    for annotation in coco["annotations"]:
        image = images[annotation["image_id"]]
        scale = np.array([image["width"], image["height"]], dtype=np.float64)
        if annotation.get("iscrowd"):
            lost.add("crowds (left out, as YOLO would take them for objects)")
            continue
        x, y, w, h = annotation["bbox"]
        polygons = annotation.get("segmentation")
        if segments:
            if not isinstance(polygons, list) or not polygons:
                lost.add("masks that are no polygons (written as boxes)")
                polygons = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            elif len(polygons) > 1:
                lost.add("parts of objects beside the largest", len(polygons) - 1)
            points = _points(max(polygons, key=_area)) / scale
            values = points.ravel().tolist()
        else:
            lost.add("masks", bool(polygons))
            values = [*((np.array([x, y]) + np.array([w, h]) / 2) / scale), *(np.array([w, h]) / scale)]
        lines[image["id"]].append(" ".join([str(labels[annotation["category_id"]]), *(f"{v:.17g}" for v in values)]))
    for image_id, own in lines.items():
        target = targets[image_id]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{line}\n" for line in own), encoding="utf-8")
    names = {k: c["name"] for k, c in enumerate(coco["categories"])}
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": names}, allow_unicode=True), encoding="utf-8")
    return lost


def read_yolo(labels: Path, images: Path, names: Sequence[str] | None = None) -> tuple[dict[str, Any], Lost]:
    """A COCO dict of all images below a folder; category ids from 1.

    Args:
        labels: folder of text files, in the folders of the images; an image without one has no objects.
        names: of the classes; from ``data.yaml`` above the labels if None.

    Raises:
        ValueError: a line that is none of YOLO's, with its file and number; no images; no names, or names that are not
            numbered from 0 without gaps; two images that share a text file.
    """
    lost = Lost()
    names = list(names) if names else _names(labels)
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{images}: has no images")
    entries: list[dict[str, Any]] = []
    for number, file in enumerate(files, start=1):
        height, width = image_size(file)
        name = file.relative_to(images).as_posix()
        entries.append({"id": number, "file_name": name, "height": height, "width": width})
    texts = places(entries, labels, ".txt")
    annotations: list[dict[str, Any]] = []
    for entry in entries:
        text = texts[entry["id"]]
        for k, line in enumerate(_read(text).splitlines() if text.is_file() else [], start=1):
            if not line.strip():
                continue
            label, values = _line(line, f"{text}, line {k}", len(names))
            annotation = {"id": len(annotations) + 1, "image_id": entry["id"], "category_id": label + 1}
            annotations.append(annotation | _place(values, entry["width"], entry["height"]))
    known = set(texts.values())
    lost.add("text files without an image", sum(path not in known for path in labels.rglob("*.txt")))
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    return {"images": entries, "annotations": annotations, "categories": categories}, lost


def _place(values: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """Box, and area or polygon, in COCO's form."""
    points = _points(values) * [width, height]
    if len(points) == 2:
        centre, size = points
        low, high = centre - size / 2, centre + size / 2
    else:
        low, high = points.min(axis=0), points.max(axis=0)
    box = [*low.tolist(), *(high - low).tolist()]
    mask = {"area": box[2] * box[3]} if len(points) == 2 else {"segmentation": [points.ravel().tolist()]}
    return {"bbox": box, "iscrowd": 0} | mask


def _points(values: Sequence[float]) -> np.ndarray:
    """(n, 2) float64."""
    return np.array(values, dtype=np.float64).reshape(-1, 2)


def _area(polygon: Sequence[float]) -> float:
    """By the shoelace formula."""
    x, y = _points(polygon).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # swallows the byte order mark that some editors write
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8 ({error.reason}); is it a label file?") from error


def _line(line: str, where: str, classes: int) -> tuple[int, list[float]]:
    try:
        first, *rest = line.split()
        label, values = int(first), [float(value) for value in rest]
    except ValueError as error:
        raise ValueError(f"{where}: {line[:60]!r} is not a class and numbers") from error
    if not 0 <= label < classes:
        raise ValueError(f"{where}: class {label}, but there are names for 0 to {classes - 1}")
    if (len(values) != 4 and (len(values) < 6 or len(values) % 2)) or not np.isfinite(values).all():
        raise ValueError(f"{where}: {len(values)} numbers; a box has four, a polygon x and y of three points at least")
    return label, values


def _names(labels: Path) -> list[str]:
    for folder in (labels, *labels.parents[:2]):
        path = folder / "data.yaml"
        if path.is_file():
            try:
                content = yaml.safe_load(_read(path))
            except yaml.YAMLError as error:
                raise ValueError(f"{path}: is no YAML ({' '.join(str(error).split())[:120]})") from error
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, dict):
                return _numbered(names, path)
            if isinstance(names, list):
                return [str(name) for name in names]
    raise ValueError(f"{labels}: no data.yaml with names beside or above it; give --names")


def _numbered(names: Mapping[Any, Any], path: Path) -> list[str]:
    """Names by their numbers, which some tools write as text."""
    try:
        number = {int(key): str(name) for key, name in names.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: names has a key that is no number ({error}); number the classes from 0") from error
    missing = sorted(set(range(len(names))) - number.keys())
    if missing:
        raise ValueError(f"{path}: names has {len(names)} classes but no number {missing[0]}; number them from 0")
    return [number[k] for k in range(len(names))]
