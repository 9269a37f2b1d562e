"""Read and write PASCAL VOC: one XML file per image, with boxes.

Coordinates stay unchanged, including fractions, as in current tools. The original VOC files count whole pixels from 1
and include the last pixel; set ``one_based`` to read them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detection.data.image import shown_size
from detection.foreign import shown
from detection.formats.account import Account
from detection.formats.places import places, slashed
from detection.formats.voc_files import Annotated, find_files, image_name, read_xml

UNSET = (None, "", "0", "Unspecified")
"""Values that mean: not truncated, not difficult, not occluded, or unknown pose."""
MOST_PIXELS = 1_000_000
"""Longest side of an image."""


def write_voc(coco: Mapping[str, Any], folder: Path) -> Account:
    """Write one XML file per image, with the name of the image.

    Crowds become ``difficult``. VOC cannot store masks, keypoints, areas, IDs, and categories without objects.

    Raises:
        ValueError: two images would get the same XML file, or a name contains characters that XML does not allow.
    """
    account = Account()
    targets = places(coco["images"], folder, ".xml")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    used = {a["category_id"] for a in coco["annotations"]}
    account.lose("categories without objects", len(names.keys() - used))
    objects: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in coco["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
        account.lose("masks", bool(annotation.get("segmentation")))
        account.lose("keypoints", bool(annotation.get("num_keypoints")))
        account.change("crowds marked as difficult", int(annotation.get("iscrowd", 0)))
        account.take(names[annotation["category_id"]], "boxes")
    written = [(targets[one["id"]], _document(one, objects.get(one["id"], []), names)) for one in coco["images"]]
    for (target, root), image in zip(written, coco["images"], strict=True):
        account.take_image(len(objects.get(image["id"], [])))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
    return account


def read_voc(
    folder: Path,
    one_based: bool = False,
    classes: Sequence[str] = (),
    images: Path | None = None,
    split: str | None = None,
) -> tuple[dict[str, Any], Account]:
    """Read the XML files below a folder into a COCO dict; category IDs count from 1.

    An image has the same name and the same subfolder as its XML file.

    Args:
        folder: folder of XML files, or a folder with ``Annotations`` and ``JPEGImages`` in it.
        one_based: coordinates count pixels from 1 and include the last pixel.
        classes: class names in the order of their IDs. If empty, the classes in the files, sorted by name.
        images: image folder. It determines the suffixes of the images, and the sizes that an XML file lacks. None
            takes ``JPEGImages`` beside ``Annotations``.
        split: name of a list in ``ImageSets/Main``, such as ``train``. None reads all XML files.

    Raises:
        ValueError: a file is not a VOC annotation or has an unknown class (the message has its path); there are no
            files, objects or classes; or a class occurs twice.
    """
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes {' '.join(map(shown, classes))}: one occurs twice; give each once")
    account = Account()
    entries, found = [], []
    for number, one in enumerate(find_files(folder, images, split, account), start=1):
        root = read_xml(one.path)
        name = image_name(one, _optional(root, "filename"), account)
        height, width = _size(root, one, name, account)
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        parts = root.findall("object")
        account.take_image(len(parts))
        account.lose("files of masks (segmented)", _optional(root, "segmented") == "1")
        for part in parts:
            found.append((number, *_object(part, one.path, one_based, classes, account)))
    if not found:
        raise ValueError(f"{folder}: no file contains an object; check that these are the right annotations")
    names = classes or sorted({name for _, name, _, _ in found})
    ids = {name: k for k, name in enumerate(names, start=1)}
    annotations = []
    for k, (number, name, (x0, y0, x1, y1), difficult) in enumerate(found, start=1):
        box = [x0, y0, x1 - x0, y1 - y0]
        entry = {"id": k, "image_id": number, "category_id": ids[name], "bbox": box}
        annotations.append(entry | {"area": box[2] * box[3], "iscrowd": difficult})
        account.take(name, "boxes")
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}, account


def _document(
    image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], names: Mapping[Any, str]
) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _text(root, "filename", slashed(image["file_name"]))
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
        _text(size, key, value)
    for annotation in objects:
        entry = ElementTree.SubElement(root, "object")
        _text(entry, "name", names[annotation["category_id"]])
        _text(entry, "difficult", int(annotation.get("iscrowd", 0)))
        x, y, w, h = annotation["bbox"]
        box = ElementTree.SubElement(entry, "bndbox")
        for key, value in (("xmin", x), ("ymin", y), ("xmax", x + w), ("ymax", y + h)):
            _text(box, key, repr(float(value)))
    ElementTree.indent(root)
    return root


def _object(
    part: ElementTree.Element, path: Path, one_based: bool, classes: Sequence[str], account: Account
) -> tuple[str, list[float], int]:
    """Return the class, the corners, and 1 if the object is difficult."""
    name = _required(part, "name", path)
    if classes and name not in classes:
        listed = ", ".join(shown(known) for known in classes[:10])
        raise ValueError(f"{shown(path, None)}: has an object of class {shown(name)!r}, which is not in {listed}")
    if part.find("bndbox") is None and part.find("robndbox") is not None:
        raise ValueError(f"{shown(path, None)}: has a rotated box <robndbox>; export it as <bndbox>")
    corners = [_number(part, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax")]
    if one_based:
        corners = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
    for key in ("truncated", "pose", "occluded"):
        account.lose(f"values of {key}", part.findtext(key) not in UNSET)
    account.lose("parts of objects", len(part.findall("part")))
    account.lose("polygons of objects", len(part.findall("polygon")))
    difficult = _difficult(part, path)
    account.change("difficult objects (now crowds: neither learned nor scored)", difficult)
    return name, corners, difficult


def _size(root: ElementTree.Element, one: Annotated, name: str, account: Account) -> tuple[int, int]:
    """Return (height, width) from the XML file, or from the image if the XML file has no size or 0."""
    if all(re.fullmatch(r"0*\.?0*", _optional(root, f"size/{side}")) for side in ("width", "height")):
        size = _measured(one, name)
        if size is not None:
            account.change("images without <size> took that of their file")
            return size
    width, height = (_number(root, f"size/{side}", one.path) for side in ("width", "height"))
    if not all(1 <= side <= MOST_PIXELS and side == int(side) for side in (height, width)):
        raise ValueError(
            f"{shown(one.path, None)}: <size> is {width:g} x {height:g}; write the size of the image in pixels, or "
            "give the image folder with --images"
        )
    return int(height), int(width)


def _measured(one: Annotated, name: str) -> tuple[int, int] | None:
    """Return (height, width) of the image file; None if its location is not known."""
    path = None if one.images is None else one.images / name
    return shown_size(path) if path is not None and path.is_file() else None


def _optional(element: ElementTree.Element, place: str) -> str:
    return (element.findtext(place) or "").strip()


def _required(element: ElementTree.Element, place: str, path: Path) -> str:
    value = _optional(element, place)
    if not value:
        raise ValueError(f"{shown(path, None)}: <{element.tag}> has no <{place}>; add it")
    return value


def _number(element: ElementTree.Element, place: str, path: Path) -> float:
    text = _required(element, place, path)
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{shown(path, None)}: <{place}> is {shown(text)!r}; it must be a number")
    return number


def _difficult(element: ElementTree.Element, path: Path) -> int:
    text = _optional(element, "difficult")
    if text not in ("1", *UNSET):
        raise ValueError(f"{shown(path, None)}: <difficult> is {shown(text)!r}; it must be 0 or 1")
    return int(text == "1")


def _text(parent: ElementTree.Element, tag: str, value: object) -> None:
    text = str(value)
    if re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", text):
        raise ValueError(f"<{tag}> {shown(text)!r} contains characters that XML does not allow; rename it")
    ElementTree.SubElement(parent, tag).text = text
