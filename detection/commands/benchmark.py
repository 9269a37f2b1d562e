"""Time a model on this machine: images per second, milliseconds and memory of inference.

The images are drawn, unless `--images` names a folder. Each number is the median of several runs.
"""

import argparse
from pathlib import Path

from detection.commands.options import MODEL, add_shared
from detection.commands.printing import write_json

EPILOG = """\
example:
  rcnn benchmark runs/first --batch 1 4 --size 800 1333"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of images to time with")
    batch = {"nargs": "+", "default": [1], "help": "images at a time, one or more numbers (default 1)"}
    precision = {"choices": ("fp32", "bf16"), "default": "fp32"}
    add_shared(parser, "batch", "size", "device", "precision", "json", "trust_code", batch=batch, precision=precision)
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="number of timed runs; their median is printed (default 10)"
    )


def run(options: argparse.Namespace) -> None:
    """Time the model, print a line per batch size, and write the JSON."""
    from detection.inference.options import check_least
    from detection.inference.timing import time_model

    check_least(options, {"rounds": 1})
    if min(options.batch) < 1:
        raise ValueError("--batch: must be at least 1")
    rows = time_model(options)
    for row in rows:
        print(
            f"batch {row['batch']}: {row['images_per_second']:.2f} images/s, {row['median_ms']:.0f} ms per batch "
            f"(network {row['network_ms']:.0f} ms), slowest {row['slowest_ms']:.0f} ms, {row['memory_gb']:.2f} GB"
        )
    write_json(rows, options.json)
