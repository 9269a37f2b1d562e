"""Find objects in images, folders and videos. Write images with the objects drawn in, JSON, CSV or masks.

A classifier writes `predictions.csv`: the classes of highest score of each image. A multi-label classifier writes all
classes with a score of at least `--score`.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detection.commands.options import MODEL, add_shared, repeat_score
from detection.commands.printing import fail, write_json

if TYPE_CHECKING:
    from backbones.classifiers import Classifier

EPILOG = """\
exit codes: 0 all done; 2 a wrong option; 3 some images or videos could not be read completely

example:
  rcnn predict runs/first street.jpg photos/ --save images json --score 0.5"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("images", nargs="+", metavar="SOURCE", help="images, folders, patterns, videos, or camera:0")
    add_shared(parser, "output", output={"default": Path("predictions"), "help": "folder for the results"})
    kinds = ("images", "json", "csv", "masks", "labels", "panoptic", "pictures")
    what = "what to write: images with the objects drawn in (default), json (COCO results), csv, masks (16-bit PNG), "
    what += "labels (PNG of semantic classes), panoptic (COCO's panoptic PNG and JSON)"
    parser.add_argument("--save", nargs="+", default=["images"], choices=kinds, metavar="KIND", help=what)
    score = (
        "drop detections with a lower score (default 0.5); by class, as person=0.6 car=0.3; model: those that it holds"
    )
    parser.add_argument("--score", action="append", metavar="S", help=score)
    across = "keep the best of overlapping boxes, whatever their classes"
    parser.add_argument("--across-classes", action="store_true", help=across)
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="keep only these classes")
    add_shared(parser, "batch", "size", batch={"default": 4})
    parser.add_argument("--tile", type=int, metavar="N", help="run squares of N pixels, for very large images")
    parser.add_argument("--flip", action="store_true", help="also run the horizontally flipped image")
    parser.add_argument("--short-sides", type=int, nargs="+", metavar="N", help="run the image at each of these sizes")
    parser.add_argument("--top", type=int, metavar="N", help="of a classifier: classes of each image (default 5)")
    parser.add_argument("--frames", type=int, metavar="N", help="read at most N frames of a video or camera")
    verbose = {"help": "print a line for each image"}
    precision = {"choices": ("fp32", "bf16"), "default": "fp32"}
    names = ("device", "precision", "json", "trust_code", "verbose")
    add_shared(parser, *names, precision=precision, verbose=verbose)


prepare = repeat_score


def run(options: argparse.Namespace) -> int:
    """Predict, print a summary, and return 3 if a source could not be read completely."""
    from detection.device import inference_device
    from detection.inference.api import find_classifier

    model = find_classifier(options.model, options.trust_code, inference_device(options.device))
    if model is not None:
        return _classify(options, model)
    if options.top is not None:
        raise ValueError(f"--top: {options.model} is no classifier; use --score")
    from detection.inference.folders import predict_files

    options.save = ["pictures" if kind == "images" else kind for kind in options.save]
    failed: list[str] = []
    cut_off: list[str] = []
    summary = predict_files(options, failed, cut_off)
    write_json(summary, options.json)
    for line in [*failed, *cut_off]:
        fail(line)
    return 3 if failed or cut_off else 0


def _classify(options: argparse.Namespace, model: "Classifier") -> int:
    """Classify images, and return 3 if one could not be read."""
    from detection.inference.classify_files import classify_files

    failed: list[str] = []
    write_json(classify_files(model, options, failed), options.json)
    for line in failed:
        fail(line)
    return 3 if failed else 0


def predict_split(given: list[str]) -> int:
    """Run the former ``rcnn predict``, which writes the detections of a data set's split."""
    from detection.engine.command import run as run_lightning

    run_lightning(["predict", *given])
    return 0
