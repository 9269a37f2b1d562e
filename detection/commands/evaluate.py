"""Score a model, or COCO result files, and write a report that opens in any browser."""

import argparse
from dataclasses import fields
from pathlib import Path

from detection.commands.options import DATA, MODEL, add_shared
from detection.report.options import EvaluateOptions

EPILOG = """\
example:
  rcnn evaluate runs/first --data my_data --output evaluation
  torchrun --nproc-per-node 2 -m detection evaluate ..."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    default = EvaluateOptions
    parser.add_argument("what", nargs="+", metavar="MODEL", help=f"{MODEL}; or result files (.json)")
    parser.add_argument("--data", metavar="PATH", help=DATA)
    splits, split = ("train", "val", "test"), "of --data: train, val (default) or test"
    parser.add_argument("--split", choices=splits, default="val", metavar="NAME", help=split)
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="a COCO annotation file, instead of --data")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of its images")
    panoptic = "COCO's panoptic file, for a semantic head (default: masks)"
    parser.add_argument("--panoptic", type=Path, metavar="FILE", help=panoptic)
    labels = "folder of label PNGs, or of the PNGs of --panoptic"
    parser.add_argument("--labels", type=Path, metavar="DIR", help=labels)
    classes = "JSON file with the classes of label PNGs"
    parser.add_argument("--semantic-classes", type=Path, metavar="FILE", help=classes)
    add_shared(parser, "output", output={"default": default.output, "help": "folder for the report"})
    kinds = "bbox, segm or keypoints (default all that there are)"
    choices = ["bbox", "segm", "keypoints"]
    parser.add_argument("--iou-types", nargs="+", choices=choices, metavar="KIND", help=kinds)
    rules, protocols = "rules to score by: coco (default), lvis or voc", ["coco", "lvis", "voc"]
    parser.add_argument("--protocol", choices=protocols, default=default.protocol, metavar="NAME", help=rules)
    limit = "scored detections of a class in an image (default 100)"
    parser.add_argument("--max-dets", type=int, default=default.max_dets, metavar="N", help=limit)
    sigmas = "sigma of each keypoint (default COCO's 17, else 0.05)"
    parser.add_argument("--keypoint-sigmas", type=float, nargs="+", metavar="S", help=sigmas)
    engine, engines = "hotcoco, pycocotools or auto (default)", ["auto", "hotcoco", "pycocotools"]
    parser.add_argument("--engine", choices=engines, default=default.engine, metavar="NAME", help=engine)
    resamplings = "bootstrap samples for intervals (default 100)"
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
    rule = "store score thresholds in MODEL: best-f1, precision=0.9 or recall=0.8"
    parser.add_argument("--set-thresholds", metavar="RULE", help=rule)
    parser.add_argument("--calibrate", action="store_true", help="also store a temperature that calibrates scores")
    batch, workers = {"default": default.batch}, {"default": default.workers}
    precision = {"choices": ("fp32", "bf16"), "default": default.precision}
    names = ("batch", "workers", "device", "trust_code", "precision")
    add_shared(parser, *names, batch=batch, workers=workers, precision=precision)


def run(options: argparse.Namespace) -> None:
    """Evaluate as the options say."""
    from detection.device import inference_device
    from detection.inference.api import find_classifier

    names = [field.name for field in fields(EvaluateOptions)]
    if not options.what[0].endswith(".json"):
        model = find_classifier(options.what[0], options.trust_code, inference_device(options.device))
        if model is not None:
            from detection.commands.image_scores import evaluate_images

            return evaluate_images(model, EvaluateOptions(**{name: getattr(options, name) for name in names}))
    from detection.report.inputs import annotations_and_images
    from detection.report.scoring import evaluate

    listed = options.panoptic or options.semantic_classes  # lists classes, and the images of a panoptic file
    if options.data is None and options.annotations is None and listed is not None:
        options.annotations = listed
    options.annotations, options.images = annotations_and_images(
        options.data, options.split, options.annotations, options.images
    )
    evaluate(EvaluateOptions(**{name: getattr(options, name) for name in names}))
