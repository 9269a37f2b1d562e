"""``python -m detection train ...``: as ``rcnn train ...``, and from a checkout without installing."""

import sys

from detection.commands.main import command

if __name__ == "__main__":
    sys.exit(command())
