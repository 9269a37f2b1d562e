"""List the published weights that the toolkit can load, or describe one model.

Every name works wherever a command takes a MODEL; the first use downloads its file.
"""

import argparse

from detection.commands.options import MODEL, add_shared
from detection.commands.printing import write_json

EPILOG = """\
example:
  rcnn models list "maskrcnn*"
  rcnn models show runs/first"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    words = parser.add_subparsers(dest="word", required=True, metavar="list|show")
    names = words.add_parser("list", help="print the names with their published AP")
    names.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help='names to print, as "mask*"')
    add_shared(names, "json")
    show = words.add_parser("show", help="print classes, backbone, parameters and operations of a model")
    show.add_argument("model", metavar="MODEL", help=MODEL)
    add_shared(show, "json", "trust_code")


def run(options: argparse.Namespace) -> None:
    """List the models, or describe one."""
    if options.word == "show":
        from dataclasses import asdict

        from detection.inference import model_info
        from detection.inference.api import load_detector

        info = model_info(load_detector(options.model, options.trust_code))
        print(info)
        write_json(asdict(info), options.json)
        return
    from detection.convert.zoo import ZOO, list_models

    rows = []
    for name in list_models(options.pattern):
        origin, _, entry = name.partition(":")
        found = ZOO[origin][entry]
        rows.append({"name": name, "box_ap": found.box_ap, "mask_ap": found.mask_ap, "keypoint_ap": found.keypoint_ap})
    if not rows:
        raise ValueError(f"no published model matches {options.pattern}; `rcnn models list` prints all")
    width = max(len(str(row["name"])) for row in rows)
    print(f"{'':{width}}  box AP  mask AP  keypoint AP  (COCO val2017, as published)")
    for row in rows:
        box = "     –" if row["box_ap"] is None else f"{row['box_ap']:6.1f}"
        mask = "      –" if row["mask_ap"] is None else f"{row['mask_ap']:7.1f}"
        keypoint = "          –" if row["keypoint_ap"] is None else f"{row['keypoint_ap']:11.1f}"
        print(f"{row['name']:{width}}  {box}  {mask}  {keypoint}")
    write_json(rows, options.json)
