"""Check a data set, and whether a model's settings fit it.

It finds objects that training would drop or repair, unreadable images, copies, sizes that no anchor fits, and more.
Settings of the configuration are also options, such as `--data.short_side 640`.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detection.commands.options import add_shared
from detection.commands.printing import note, write_json
from detection.commands.settings import add_data_options, settings_of_data
from detection.foreign import printable, shown

if TYPE_CHECKING:
    from detection.data.dataset import CocoDataset
    from detection.doctor.findings import Diagnosis
    from detection.report.pictures import Picture

TAKES_SETTINGS = True
EPILOG = """\
exit codes: 0 no errors; 1 warnings, with --strict; 2 errors

example:
  rcnn doctor my_data --decode --html doctor.html"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_data_options(parser, "configuration whose settings to check")
    parser.add_argument("--decode", action="store_true", help="read every image, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with example images")
    add_shared(parser, "json")
    parser.add_argument("--strict", action="store_true", help="exit with code 1 for warnings")


def run(options: argparse.Namespace) -> int:
    """Examine the data, print the findings and write them; return an exit code by the worst finding."""
    from detection.doctor.examine import examine
    from detection.doctor.page import page
    from detection.engine.settings import read_settings
    from detection.report.files import plain

    module, data = read_settings(settings_of_data(options))
    diagnosis, opened = examine(module, data, options.decode)
    if options.json != "-":
        print(printable(diagnosis.text()))
    write_json(plain(diagnosis.plain()), options.json)
    if options.html:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        examples = _examples(diagnosis, opened["train"]) if "train" in opened else []
        options.html.write_text(page(f"Diagnosis of {data.config.root}", diagnosis, examples), encoding="utf-8")
        note(f"page: {options.html}")
    return diagnosis.exit_code(options.strict)


def _examples(diagnosis: "Diagnosis", dataset: "CocoDataset") -> list[tuple[str, "Picture"]]:
    """Draw unusual images with their objects, under captions."""
    from detection.browse import draw_scene
    from detection.report.pictures import Picture, data_url

    found = []
    for why, numbers in diagnosis.examples.items():
        for i in numbers:
            try:
                scene = dataset.scene(i)
            except ValueError:
                continue  # --decode has reported it
            categories = dataset.annotations.categories
            picture = draw_scene(scene, categories.names, categories.skeletons)
            name = dataset.annotations.file_name(i)
            found.append(
                (f"{why}: {shown(name)} (id {dataset.annotations.image_ids[i]})", Picture(data_url(picture, 800)))
            )
    return found
