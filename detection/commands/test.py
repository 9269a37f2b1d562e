"""Compute the COCO metrics of a model on the test images, and write its detections as COCO results.

The settings, and the data unless `--data` says otherwise, are those of the model's run. Any setting of the
configuration is an option, too.
"""

import argparse

from detection.commands import validate

TAKES_SETTINGS = True
EPILOG = """\
example:
  rcnn test runs/first --data my_data"""

add_options = validate.add_options


def run(options: argparse.Namespace) -> int:
    """Test as the options say."""
    return validate.evaluate(options, "test", "test")
