"""Show images of a data set, before and after augmentation, as training sees them.

Settings of the configuration are also options, such as `--data.flip 0`.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detection.commands.options import add_shared
from detection.commands.settings import add_data_options, settings_of_data
from detection.wording import plural

if TYPE_CHECKING:
    from detection.data.dataset import CocoDataset

TAKES_SETTINGS = True
EPILOG = """\
example:
  rcnn browse my_data --split val --number 20"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    output = {"default": Path("browse"), "help": "folder for the page and the images"}
    add_data_options(parser, "configuration with the augmentation")
    add_shared(parser, "output", output=output)
    parser.add_argument(
        "--split", choices=["train", "val", "test"], default="train", help="which images (default train)"
    )
    parser.add_argument(
        "--number", type=int, default=8, metavar="N", help="images, spread over the data set (default 8)"
    )
    parser.add_argument("--ids", type=int, nargs="+", metavar="ID", help="images with these ids instead")
    parser.add_argument("--views", type=int, default=3, metavar="N", help="augmented views of each image (default 3)")


def run(options: argparse.Namespace) -> None:
    """Show some images before and after augmentation."""
    from detection.browse import augmentations, file_names, look, page, write_row
    from detection.engine.settings import read_settings
    from detection.inference.options import check_least

    check_least(options, {"number": 1, "views": 0})
    _, data = read_settings(settings_of_data(options))
    dataset = data.open(options.split)
    seen = [look(dataset, index, options.views) for index in _chosen(dataset, options)]
    options.output.mkdir(parents=True, exist_ok=True)
    title = f"{options.split}: {len(seen)} of {plural(len(dataset), 'image')}"
    (options.output / "browse.html").write_text(page(title, seen, augmentations(dataset.transforms)), encoding="utf-8")
    for name, one in zip(file_names(seen), seen, strict=True):
        write_row(options.output / name, [one.before, *one.after])
    print(f"{plural(len(seen), 'image')}: {options.output / 'browse.html'}")


def _chosen(dataset: "CocoDataset", options: argparse.Namespace) -> list[int]:
    """Return the indices of the images that the options name."""
    if options.ids is None:
        last, number = len(dataset) - 1, min(options.number, len(dataset))
        return [round(k * last / max(1, number - 1)) for k in range(number)]
    places = {int(id): k for k, id in enumerate(dataset.annotations.image_ids)}
    unknown = [id for id in options.ids if id not in places]
    if unknown:
        raise ValueError(f"{dataset.annotations.path}: has no images {unknown[:5]}; see --ids")
    return [places[id] for id in options.ids]
