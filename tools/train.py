"""Train and evaluate, as the command ``rcnn`` does: ``tools/train.py fit --config mask_rcnn_r50_fpn_1x_coco``."""

import sys

from detection.cli import command

if __name__ == "__main__":
    sys.exit(command())
