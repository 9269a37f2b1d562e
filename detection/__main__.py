"""``python -m detection fit ...``: as ``rcnn fit ...``, and from a checkout without installing."""

import sys

from detection.cli import command

if __name__ == "__main__":
    sys.exit(command())
