"""Compute the COCO metrics of a model on the test images, and write its detections as COCO results.

The command uses the settings of the model's run, and its data unless you give `--data`. All settings of the
configuration are also options.
"""

import argparse

from detection.commands.settings import add_evaluation_options as add_options
from detection.commands.settings import evaluation

__all__ = ["EPILOG", "TAKES_SETTINGS", "add_options", "run"]

TAKES_SETTINGS = True
EPILOG = """\
example:
  rcnn test runs/first --data my_data"""


def run(options: argparse.Namespace) -> int:
    """Test as the options say."""
    from detection.engine.errors import user_input

    with user_input():
        words = evaluation("test", options, "test")
    from detection.engine.command import run as run_lightning

    run_lightning(words)
    return 0
