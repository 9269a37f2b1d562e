"""Convert annotations between COCO, YOLO, VOC and LVIS; report what was carried over, changed and left out.

Training reads YOLO and VOC data sets without this command.
"""

import argparse
from pathlib import Path

from detection.commands.printing import note
from detection.foreign import printable

FORMS = ("coco", "yolo", "voc", "lvis")
CONVERSIONS = ("coco2voc", "voc2coco", "coco2yolo", "yolo2coco", "lvis2coco")
"""Supported conversions; they are also accepted as the first word of the command, as in earlier versions."""

EPILOG = """\
example:
  rcnn convert VOC2012 instances.json --from voc
  rcnn convert instances.json yolo_labels --to yolo --segments"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "paths", nargs="+", metavar="SOURCE TARGET", help="what to read, and the file or folder to write"
    )
    parser.add_argument("--from", dest="form", choices=FORMS, help="form of SOURCE (guessed if not given)")
    parser.add_argument("--to", choices=("coco", "yolo", "voc"), help="form of TARGET (default coco, from COCO none)")
    images = "folder of the images: finds images that the labels do not name, and fills in sizes"
    parser.add_argument("--images", type=Path, metavar="DIR", help=images)
    names = "classes in the order of their ids, instead of those that the data set lists"
    parser.add_argument("--classes", "--names", dest="names", nargs="+", default=[], metavar="NAME", help=names)
    split = "read one part: train, val or test of data.yaml, or a list of VOC's ImageSets/Main"
    parser.add_argument("--split", metavar="NAME", help=split)
    parser.add_argument("--segments", action="store_true", help="to YOLO: polygons instead of boxes")
    parser.add_argument("--one-based", action="store_true", help="from VOC: pixels count from 1, as in VOC's own")


def run(options: argparse.Namespace) -> None:
    """Convert the annotations, and print a report."""
    from detection.formats.convert import convert

    what, paths = None, options.paths
    if len(paths) == 3 and paths[0] in CONVERSIONS:  # the former form
        what, paths = paths[0], paths[1:]
        form, _, to = what.partition("2")
        note(f"note: rcnn convert {what} is rcnn convert SOURCE TARGET --from {form} --to {to} now; both work")
    if len(paths) != 2:
        raise ValueError("give what to read and what to write: rcnn convert SOURCE TARGET")
    options.source, options.target = map(Path, paths)
    options.what = what or _what(options)
    print(printable(convert(options)))


def _what(options: argparse.Namespace) -> str:
    """Return the conversion that the options ask for."""
    form = options.form or _form(options.source)
    to = options.to or ("coco" if form != "coco" else None)
    if to is None:
        raise ValueError("the format to write is not given; add --to yolo or --to voc")
    what = f"{form}2{to}"
    if what not in CONVERSIONS:
        raise ValueError(f"no conversion from {form} to {to}; possible are {', '.join(CONVERSIONS)}")
    return what


def _form(source: Path) -> str:
    """Return the format of a file or folder, as :mod:`detection.formats.recognise` recognises it.

    Raises:
        ValueError: the format is unknown or ambiguous, or the folder contains COCO data: SOURCE must be a COCO file.
    """
    from detection.formats.recognise import format_of

    if not source.exists():
        raise ValueError(f"{source}: no such file or folder; check the path")
    if source.suffix == ".json":
        return "coco"
    if source.suffix in (".yaml", ".yml"):
        return "yolo"
    form = format_of(source) if source.is_dir() else None
    if form == "COCO":
        raise ValueError(f"{source}: contains a COCO data set; give one of its annotation files")
    if form is not None:
        return form.lower()
    if source.is_dir() and next(source.glob("*.txt"), None):  # labels without their images
        return "yolo"
    raise ValueError(f"{source}: unknown format; give it with --from {' or '.join(FORMS)}")
