"""Score a model, or COCO result files, and write a report that opens in any browser.

The report shows AP with confidence intervals, per-class numbers, an error analysis and the worst images.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from detection.commands.options import DATA, MODEL, add_shared
from detection.report.options import EvaluateOptions

EPILOG = """\
example:
  rcnn evaluate runs/first --data my_data --output evaluation
  rcnn evaluate results.json --annotations instances_val.json --images val

In several processes: torchrun --nproc-per-node 2 -m detection evaluate ..."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    default = EvaluateOptions
    parser.add_argument("what", nargs="+", metavar="MODEL", help=f"{MODEL}; or result files (.json)")
    parser.add_argument("--data", metavar="PATH", help=DATA)
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="of --data (default val)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="a COCO annotation file, instead of --data")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of its images")
    add_shared(parser, "output", output={"default": default.output, "help": "folder for the report"})
    kinds = "score boxes, masks or keypoints (default all that there are)"
    parser.add_argument("--iou-types", nargs="+", choices=["bbox", "segm", "keypoints"], help=kinds)
    rules = "rules to score by (default coco)"
    parser.add_argument("--protocol", choices=["coco", "lvis", "voc"], default=default.protocol, help=rules)
    limit = "detections of a class in an image that are scored (default 100, as COCO); AR is named after it"
    parser.add_argument("--max-dets", type=int, default=default.max_dets, metavar="N", help=limit)
    sigmas = "sigma of each keypoint for COCO's OKS (default COCO's for 17 keypoints, else 0.05)"
    parser.add_argument("--keypoint-sigmas", type=float, nargs="+", metavar="SIGMA", help=sigmas)
    engine = "program that matches detections (default auto)"
    parser.add_argument("--engine", choices=["auto", "hotcoco", "pycocotools"], default=default.engine, help=engine)
    resamplings = "bootstrap samples for the intervals (default 100); 0 for none"
    parser.add_argument("--resamplings", type=int, default=default.resamplings, metavar="N", help=resamplings)
    parser.add_argument(
        "--pictures", type=int, default=default.pictures, metavar="N", help="worst images to show (default 12)"
    )
    parser.add_argument("--name", metavar="NAME", help="name of the detector in the report (default its kind)")
    add_shared(parser, "size")
    parser.add_argument("--flip", action="store_true", help="also run the horizontally flipped image")
    parser.add_argument("--short-sides", type=int, nargs="+", metavar="N", help="run the image at each of these sizes")
    parser.add_argument("--tile", type=int, metavar="N", help="run squares of N pixels, for very large images")
    parser.add_argument("--soft-nms", type=float, metavar="SIGMA", help="soft suppression; 0.5 in its paper")
    parser.add_argument("--refine", type=int, metavar="N", help="run the box head N more times on its own boxes")
    rule = "choose the score threshold of each class, and store it in MODEL: best-f1, precision=0.9 or recall=0.8"
    parser.add_argument("--set-thresholds", metavar="RULE", help=rule)
    parser.add_argument("--calibrate", action="store_true", help="also store a temperature that calibrates scores")
    batch, workers = {"default": default.batch}, {"default": default.workers}
    precision = {"choices": ("fp32", "bf16"), "default": default.precision}
    names = ("batch", "workers", "device", "trust_code", "precision")
    add_shared(parser, *names, batch=batch, workers=workers, precision=precision)


def run(options: argparse.Namespace) -> None:
    """Evaluate as the options say."""
    from detection.report.inputs import annotations_and_images
    from detection.report.scoring import evaluate

    options.annotations, options.images = annotations_and_images(
        options.data, options.split, options.annotations, options.images
    )
    evaluate(EvaluateOptions(**{field.name: getattr(options, field.name) for field in fields(EvaluateOptions)}))
