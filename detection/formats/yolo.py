"""YOLO: a text file per image; a line per object: its class number and a box or a polygon, in parts of the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detection.data.image import image_size
from detection.formats.lost import Lost

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def write_yolo(coco: Mapping[str, Any], folder: Path, segments: bool = False) -> Lost:
    """Write a text file for each image, and ``data.yaml`` with the names.

    Args:
        segments: write polygons; an object without one gets its box as a polygon.
    """
    lost = Lost()
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
            points = np.array(max(polygons, key=len), dtype=np.float64).reshape(-1, 2) / scale
            values = points.ravel().tolist()
        else:
            lost.add("masks", bool(polygons))
            values = [*((np.array([x, y]) + np.array([w, h]) / 2) / scale), *(np.array([w, h]) / scale)]
        lines[image["id"]].append(" ".join([str(labels[annotation["category_id"]]), *(f"{v:.17g}" for v in values)]))
    for image_id, own in lines.items():
        target = (folder / "labels" / images[image_id]["file_name"]).with_suffix(".txt")
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
        ValueError: a line that is none of YOLO's, with its file and number; no images; no names.
    """
    lost = Lost()
    names = list(names) if names else _names(labels)
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{images}: has no images")
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, file in enumerate(files, start=1):
        height, width = image_size(file)
        name = file.relative_to(images)
        entries.append({"id": number, "file_name": name.as_posix(), "height": height, "width": width})
        text = (labels / name).with_suffix(".txt")
        for k, line in enumerate(text.read_text(encoding="utf-8").splitlines() if text.is_file() else [], start=1):
            if not line.strip():
                continue
            label, values = _line(line, f"{text}, line {k}", len(names))
            annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
            points = np.array(values).reshape(-1, 2) * [width, height]
            if len(points) == 2:  # centre and size
                (x, y), (w, h) = points
                low, high = np.array([x - w / 2, y - h / 2]), np.array([x + w / 2, y + h / 2])
            else:
                low, high = points.min(axis=0), points.max(axis=0)
                annotation["segmentation"] = [points.ravel().tolist()]
            box = [*low.tolist(), *(high - low).tolist()]
            annotation |= {"bbox": box, "iscrowd": 0} | ({} if len(points) > 2 else {"area": box[2] * box[3]})
            annotations.append(annotation)
    known = {(labels / Path(entry["file_name"])).with_suffix(".txt") for entry in entries}
    lost.add("text files without an image", sum(path not in known for path in labels.rglob("*.txt")))
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    return {"images": entries, "annotations": annotations, "categories": categories}, lost


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
            names = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("names")
            if isinstance(names, dict):
                return [str(names[k]) for k in sorted(names)]
            if isinstance(names, list):
                return [str(name) for name in names]
    raise ValueError(f"{labels}: no data.yaml with names beside or above it; give --names")
