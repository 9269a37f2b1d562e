"""Compute the COCO metrics of a model on the validation images, as training does.

The command uses the settings of the model's run, and its data unless you give `--data`. All settings of the
configuration are also options. For another annotation file and a report, use `rcnn evaluate`.
"""

import argparse

from detection.commands.settings import add_evaluation_options as add_options
from detection.commands.settings import evaluation

__all__ = ["EPILOG", "TAKES_SETTINGS", "add_options", "run"]

TAKES_SETTINGS = True
EPILOG = """\
example:
  rcnn validate runs/first
  rcnn validate torchvision:maskrcnn_resnet50_fpn_v2 --data datasets/coco"""


def run(options: argparse.Namespace) -> int:
    """Validate as the options say."""
    from detection.engine.errors import user_input

    with user_input():
        words = evaluation("validate", options, "val")
    from detection.engine.command import run as run_lightning

    run_lightning(words)
    return 0
