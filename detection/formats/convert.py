"""Convert between COCO, VOC, YOLO and LVIS, and count what was converted, changed and left out."""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detection.coco.annotations import load_annotations
from detection.coco.read import read_coco
from detection.documents import read_json
from detection.foreign import printable, shown
from detection.formats.account import Account
from detection.formats.voc import read_voc, write_voc
from detection.formats.yolo import read_yolo, write_yolo

OPTIONS = {
    "images": ("yolo2coco", "voc2coco"),
    "names": ("yolo2coco", "voc2coco"),
    "split": ("yolo2coco", "voc2coco"),
    "segments": ("coco2yolo",),
    "one_based": ("voc2coco",),
}
"""The conversions that accept each option."""

CARRIED = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}
"""Keys of an object that a conversion keeps or computes."""


def convert(options: argparse.Namespace) -> Account:
    """Run ``rcnn convert`` with the given options; return the counts.

    Raises:
        ValueError: an option does not fit the conversion, or the source cannot be read.
    """
    for name, kinds in OPTIONS.items():
        if getattr(options, name) and options.what not in kinds:
            raise ValueError(f"--{name.replace('_', '-')} is for {' and '.join(kinds)}, not for {options.what}")
    source, target = options.source, options.target
    if options.what.startswith("coco2"):
        return _from_coco(source, target, options.what == "coco2yolo", options.segments)
    if options.what == "voc2coco":
        coco, account = read_voc(source, options.one_based, options.names, options.images, options.split)
    elif options.what == "yolo2coco":
        coco, account = read_yolo(source, options.images, options.names, options.split)
    else:
        coco, account = lvis_to_coco(read_json(source), source)
    _write(coco, target, source)
    return account


def _from_coco(source: Path, target: Path, yolo: bool, segments: bool) -> Account:
    annotations = load_annotations(source)
    if annotations.report:
        print(printable(annotations.report))
    if not annotations.num_objects:
        raise ValueError(f"{source}: contains no objects; give a file with annotations")
    coco = annotations.to_coco()
    account = write_yolo(coco, target, segments) if yolo else write_voc(coco, target)
    # Read the file again, because the checked annotations do not have these keys.
    others = Counter(key for entry in read_coco(source)["annotations"] for key in _others(entry))
    for key, count in others.most_common(20):
        account.lose(f"values of {shown(key)}", count)
    account.lose("values of other keys", sum(count for _, count in others.most_common()[20:]))
    return account


def _others(entry: Mapping[str, Any]) -> list[str]:
    """Return the non-empty keys of an object that the other formats cannot store."""
    return [key for key in entry.keys() - CARRIED if entry[key] not in (None, 0, "", [], {})]


def _write(coco: Mapping[str, Any], target: Path, source: Path) -> None:
    """Write a COCO file atomically, and print what training would reject, drop or repair."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        written.write_text(json.dumps(coco), encoding="utf-8")
        try:
            report = load_annotations(written).report
        except ValueError as error:
            raise ValueError(str(error).replace(str(written), str(source))) from error
        written.replace(target)
    if report:
        report.path = target
        print(printable(f"{report}\n  (the file contains them unchanged; training handles them as stated in brackets)"))


def lvis_to_coco(content: Any, source: Path) -> tuple[dict[str, Any], Account]:
    """Convert the content of an LVIS file to COCO.

    LVIS differs from COCO in two ways: it names images by their URL, and it lists classes that are absent from an
    image.

    Args:
        content: parsed JSON.
        source: path for error messages.

    Raises:
        ValueError: this is not an LVIS file, or it has no objects.
    """
    account = Account()
    lists: dict[str, Any] = {}
    for key in ("images", "annotations", "categories"):
        lists[key] = content.get(key) if isinstance(content, dict) else None
        if not isinstance(lists[key], list) or not all(isinstance(entry, dict) for entry in lists[key]):
            raise ValueError(f"{source}: is not an LVIS file (no list {key!r} of objects); give an LVIS JSON file")
    if not lists["annotations"]:
        raise ValueError(f"{source}: contains no objects; give a file with annotations")
    images = [{**image, "file_name": _lvis_name(image, source)} for image in lists["images"]]
    annotations = [{"iscrowd": 0, **annotation} for annotation in lists["annotations"]]
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    kind = "images with lists of the classes to look for (kept in the file; only --protocol lvis uses them)"
    account.lose(kind, sum(any(image.get(key) for key in keys) for image in images))
    _count(images, annotations, lists["categories"], account)
    return {**content, "images": images, "annotations": annotations}, account


def _lvis_name(image: Mapping[str, Any], source: Path) -> str:
    name, url = image.get("file_name"), image.get("coco_url")
    if not name and not isinstance(url, str):
        raise ValueError(
            f"{source}: is not an LVIS file (image {shown(image.get('id'))} has no coco_url); give an LVIS JSON file"
        )
    return str(name or "/".join(str(url).split("/")[-2:]))


def _count(images: Sequence[Any], annotations: Sequence[Any], categories: Sequence[Any], account: Account) -> None:
    names = {str(one.get("id")): str(one.get("name")) for one in categories}
    objects = Counter(str(one.get("image_id")) for one in annotations)
    for image in images:
        account.take_image(objects[str(image.get("id"))])
    for one in annotations:
        mask = one.get("segmentation")
        form = "RLEs" if isinstance(mask, dict) else "polygons" if mask else "boxes"
        account.take(names.get(str(one.get("category_id")), "unknown"), form)
