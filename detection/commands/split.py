"""Split a data set into training, validation and test images.

As far as possible, each part gets the same fraction of every class. The command writes annotation files that `rcnn
train --data DIR` reads, and does not move images. Copies of one image, versions of one image by Roboflow, and frames of
one video are in the same part.
"""

import argparse
from pathlib import Path

EPILOG = """\
example:
  rcnn split my_data --output my_split --val 0.2 --test 0.1
  rcnn train mask_rcnn_r50_fpn_1x_coco --data my_split"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("data", metavar="DATA", help="a data set: a folder, a data.yaml, or a COCO annotation file")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="folder to write into")
    parser.add_argument(
        "--val", type=float, default=0.2, metavar="F", help="fraction of the images for validation (0.2)"
    )
    parser.add_argument("--test", type=float, default=0.0, metavar="F", help="fraction of the images for testing (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random choice of images (0)")
    parser.add_argument("--merge", action="store_true", help="split all images again, including those of val and test")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing split in DIR")


def run(options: argparse.Namespace) -> None:
    """Write the annotation files of each part, and print their numbers of images and objects."""
    from detection.foreign import printable
    from detection.formats.recognise import open_data
    from detection.formats.split_folder import write_split

    data = open_data(options.data, need=("train",))
    folder: Path = options.output
    fractions = {"val": options.val, "test": options.test}
    lines = write_split(data.parts, folder, fractions, options.seed, options.merge, options.overwrite)
    print(printable("\n".join([*data.lines, *lines, f"written to {folder}; use it with --data {folder}"])))
