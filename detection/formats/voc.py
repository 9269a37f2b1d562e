"""PASCAL VOC: an XML file per image, with boxes.

Coordinates are written and read as they are, with fractions, as today's tools do; VOC's own files count whole pixels
from 1, the last one included: ``one_based`` reads those.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detection.formats.lost import Lost
from detection.formats.places import places

UNSET = (None, "", "0", "Unspecified")
"""What stands where an object is not truncated, difficult or occluded, or its pose is not known."""


def write_voc(coco: Mapping[str, Any], folder: Path) -> Lost:
    """Write an XML file for each image, named as the image.

    Crowds become ``difficult``. Masks, areas, ids, and categories without objects have no place in VOC.

    Raises:
        ValueError: two images whose XML files would be one.
    """
    lost = Lost()
    targets = places(coco["images"], folder, ".xml")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    used = {a["category_id"] for a in coco["annotations"]}
    lost.add("categories without objects", len(names.keys() - used))
    objects: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in coco["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
        lost.add("masks", bool(annotation.get("segmentation")))
    for image in coco["images"]:
        root = ElementTree.Element("annotation")
        _text(root, "filename", image["file_name"])
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
            _text(size, key, value)
        for annotation in objects.get(image["id"], []):
            entry = ElementTree.SubElement(root, "object")
            _text(entry, "name", names[annotation["category_id"]])
            _text(entry, "difficult", int(annotation.get("iscrowd", 0)))
            x, y, w, h = annotation["bbox"]
            box = ElementTree.SubElement(entry, "bndbox")
            for key, value in (("xmin", x), ("ymin", y), ("xmax", x + w), ("ymax", y + h)):
                _text(box, key, repr(float(value)))
        ElementTree.indent(root)
        target = targets[image["id"]]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
    return lost


def read_voc(folder: Path, one_based: bool = False, classes: Sequence[str] = ()) -> tuple[dict[str, Any], Lost]:
    """A COCO dict of all XML files below a folder; category ids from 1.

    Args:
        classes: names in the order of their ids; if empty, those that occur, by name.

    Raises:
        ValueError: a file that is no VOC annotation, or has an object of another class, with its path; no files, or no
            classes; a class twice.
    """
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes {' '.join(classes)}: one stands twice; give each once")
    lost = Lost()
    files = sorted(folder.rglob("*.xml"))
    if not files:
        raise ValueError(f"{folder}: has no XML files")
    images, found = [], []
    for number, path in enumerate(files, start=1):
        root = _parse(path)
        width, height = (int(_number(root, f"size/{side}", path)) for side in ("width", "height"))
        if width < 1 or height < 1:
            raise ValueError(f"{path}: <size> is {width} x {height}; give that of the image, in pixels")
        name = _required(root, "filename", path)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for part in root.findall("object"):
            name = _required(part, "name", path)
            if classes and name not in classes:
                raise ValueError(f"{path}: has an object of class {name!r}, which is none of {', '.join(classes)}")
            corners = [_number(part, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax")]
            if one_based:
                corners = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
            for key in ("truncated", "pose", "occluded"):
                lost.add(f"objects' {key}", part.findtext(key) not in UNSET)
            lost.add("objects' parts", len(part.findall("part")))
            found.append((number, name, corners, _difficult(part, path)))
    names = classes or sorted({name for _, name, _, _ in found})
    if not names:
        raise ValueError(f"{folder}: no file has an object, which would name its class; give the classes with --names")
    ids = {name: k for k, name in enumerate(names, start=1)}
    annotations = []
    for k, (number, name, (x0, y0, x1, y1), difficult) in enumerate(found, start=1):
        box = [x0, y0, x1 - x0, y1 - y0]
        entry = {"id": k, "image_id": number, "category_id": ids[name], "bbox": box}
        annotations.append(entry | {"area": box[2] * box[3], "iscrowd": difficult})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, lost


def _parse(path: Path) -> ElementTree.Element:
    data = path.read_bytes()
    # Entities can stand for gigabytes or for other files; no annotation needs any.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError(f"{path}: declares a document type, which annotations do not; remove it")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is no XML ({error})") from error
    if root.tag != "annotation":
        raise ValueError(f"{path}: begins with <{root.tag}>, not with <annotation>; is it VOC?")
    return root


def _required(element: ElementTree.Element, place: str, path: Path) -> str:
    value = element.findtext(place)
    if value is None or not value.strip():
        raise ValueError(f"{path}: <{element.tag}> has no <{place}>")
    return value.strip()


def _number(element: ElementTree.Element, place: str, path: Path) -> float:
    text = _required(element, place, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path}: <{place}> is {text[:60]!r}, which is no number")
    return number


def _difficult(element: ElementTree.Element, path: Path) -> int:
    text = (element.findtext("difficult") or "").strip()
    if text not in ("1", *UNSET):
        raise ValueError(f"{path}: <difficult> is {text[:60]!r}; it must be 0 or 1")
    return int(text == "1")


def _text(parent: ElementTree.Element, tag: str, value: object) -> None:
    ElementTree.SubElement(parent, tag).text = str(value)
