"""Train a detector, and evaluate it while it trains.

CONFIG is a name from `rcnn configs list`, or a file. Without it, the command trains a Mask R-CNN with a ResNet-50, or a
Faster R-CNN if the data have no masks. All settings of the configuration are also options, such as
`--model.backbone.name resnet101`.
"""

import argparse

from detection.commands.options import DATA, add_shared
from detection.commands.training_settings import settings

TAKES_SETTINGS = True
EPILOG = """\
example:
  rcnn train mask_rcnn_r50_fpn_1x_coco --data my_data --output runs/first --epochs 24 --batch 4

Ctrl-C saves a checkpoint and stops; the same line with --resume continues.
`rcnn train --help-all` lists every setting."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that most trainings need; all others are settings of the configuration."""
    unset = {"default": None}
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a configuration's name or file")
    parser.add_argument("--data", metavar="PATH", help=DATA)
    fraction = "part of the training images to validate on, if the data set has no such part (default 0.2)"
    parser.add_argument("--val-fraction", type=float, default=0.2, metavar="F", help=fraction)
    add_shared(parser, "output", output={"help": "folder of the run (default runs/CONFIG/version_N)"})
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the training images; the schedule follows")
    add_shared(parser, "batch", batch={"help": "images per step, over all devices"})
    parser.add_argument("--lr", type=float, metavar="RATE", help="learning rate at this batch size")
    find = "search for a learning rate instead of training: writes find_lr.png and prints a suggestion"
    parser.add_argument("--find-lr", action="store_true", help=find)
    add_shared(parser, "size")
    weights = "weights to begin with: a model, or imagenet for the backbone alone"
    parser.add_argument("--weights", metavar="MODEL", help=weights)
    parser.add_argument("--resume", nargs="?", const="auto", metavar="RUN", help="continue the run in --output or RUN")
    add_shared(parser, "device", "precision", "workers", "seed", device=unset, precision=unset, seed=unset)
    deterministic = "equal losses in two runs: up to rounding (seeded), or to the last bit (strict)"
    parser.add_argument("--deterministic", choices=("seeded", "strict"), help=deterministic)
    names = ("tensorboard", "wandb", "mlflow")
    trackers = "experiment trackers that get curves, images, settings and the report"
    parser.add_argument("--trackers", nargs="+", choices=names, help=trackers)
    add_shared(parser, "trust_code")
    parser.add_argument("--help-all", action="store_true", help="print every setting")


def run(options: argparse.Namespace) -> int:
    """Start the training with the settings of the options."""
    from detection.engine.errors import user_input

    with user_input():
        words = ["--help"] if options.help_all else settings(options)
    from detection.engine.command import run as run_lightning

    run_lightning(["fit", *words])
    return 0
