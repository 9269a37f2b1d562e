"""``rcnn serve``, from a checkout that is not installed."""

import sys

from detection.__main__ import command

if __name__ == "__main__":
    sys.exit(command("serve"))
