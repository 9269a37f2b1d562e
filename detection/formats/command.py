"""``tools/convert.py``: COCO, VOC, YOLO and LVIS, and what did not carry over."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detection.data.annotations import load_annotations
from detection.formats.lost import Lost
from detection.formats.voc import read_voc, write_voc
from detection.formats.yolo import read_yolo, write_yolo

OPTIONS = {
    "images": ("yolo2coco",),
    "names": ("yolo2coco", "voc2coco"),
    "segments": ("coco2yolo",),
    "one_based": ("voc2coco",),
}
"""Which conversions an option is for."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, and report."""
    parser = argparse.ArgumentParser(prog="convert", description="Convert annotations; says what did not carry over.")
    parser.add_argument("what", choices=["coco2voc", "voc2coco", "coco2yolo", "yolo2coco", "lvis2coco"])
    parser.add_argument("source", type=Path, help="an annotation file, or a folder of XML or text files")
    parser.add_argument("target", type=Path, help="the file or folder to write")
    parser.add_argument("--images", type=Path, help="yolo2coco: the folder of the images")
    names = "the classes in the order of their ids; yolo2coco: if there is no data.yaml; "
    names += "voc2coco: those that occur if not given, so that a split without one of them would have other ids"
    parser.add_argument("--names", nargs="+", default=[], help=names)
    parser.add_argument("--segments", action="store_true", help="coco2yolo: polygons instead of boxes")
    parser.add_argument("--one-based", action="store_true", help="voc2coco: pixels count from 1, as in VOC's own")
    options = parser.parse_args(arguments)
    try:
        print(_convert(options))
    except (OSError, ValueError) as error:
        parser.exit(2, f"convert: {error}\n")


def _convert(options: argparse.Namespace) -> Lost:
    """Convert as the options say; what was lost."""
    for name, kinds in OPTIONS.items():
        if getattr(options, name) and options.what not in kinds:
            raise ValueError(f"--{name.replace('_', '-')} is for {' and '.join(kinds)}, not for {options.what}")
    source, target = options.source, options.target
    if options.what.startswith("coco2"):
        annotations = load_annotations(source)
        if annotations.report:
            print(annotations.report)
        coco = annotations.to_coco()
        return write_voc(coco, target) if options.what == "coco2voc" else write_yolo(coco, target, options.segments)
    if options.what == "voc2coco":
        coco, lost = read_voc(source, options.one_based, options.names)
    elif options.what == "yolo2coco":
        if options.images is None:
            raise ValueError("yolo2coco needs the images, for their sizes: give --images")
        coco, lost = read_yolo(source, options.images, options.names)
    else:
        coco, lost = lvis_to_coco(_json(source), source)
    _write(coco, target, source)
    return lost


def _write(coco: Mapping[str, Any], target: Path, source: Path) -> None:
    """Write a COCO file, whole or not at all; what training would refuse, drop or mend is told now."""
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
        print(f"{report}\n  (the file has them as they were; training and evaluation will do what stands in brackets)")


def _json(source: Path) -> Any:
    try:
        return json.loads(source.read_bytes())
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON ({str(error)[:120]}); is the file complete?") from error


def lvis_to_coco(content: dict[str, Any], source: Path) -> tuple[dict[str, Any], Lost]:
    """LVIS is COCO but for two things: files are named by their address, and absent classes are listed.

    Raises:
        ValueError: no LVIS file.
    """
    lost = Lost()
    try:
        images = [{**image, "file_name": image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])}
                  for image in content["images"]]  # fmt: skip
        annotations = [{"iscrowd": 0, **annotation} for annotation in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source}: is not an LVIS file: {error} is missing") from error
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    lost.add("images' lists of classes that were looked for (kept in the file; only --protocol lvis uses them)",
             sum(any(image.get(key) for key in keys) for image in images))  # fmt: skip
    return {**content, "images": images, "annotations": annotations}, lost
