"""``tools/doctor.py``: what is wrong with a data set, and whether a detector's settings fit it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from detection.browse import draw_scene
from detection.data.dataset import CocoDataset
from detection.doctor.examine import examine
from detection.doctor.findings import Diagnosis
from detection.doctor.page import page
from detection.engine.errors import InputError
from detection.engine.settings import read_settings
from detection.foreign import printable, shown
from detection.home import command_line
from detection.report.files import plain
from detection.report.pictures import data_url


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine, print, write; the exit code says how bad it is."""
    parser = argparse.ArgumentParser(
        prog="doctor",
        description="Look for what is wrong with a data set, and whether a detector's settings fit it.",
        epilog="All other options are those of `rcnn fit`: --config NAME --data.root FOLDER ... "
        "Exit code: 2 for errors, 0 without; with --strict 1 for warnings.",
    )
    parser.add_argument("--decode", action="store_true", help="read every image, too")
    parser.add_argument("--html", type=Path, help="write a page with pictures")
    parser.add_argument("--json", type=Path, help="write everything as JSON")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for warnings")
    options, rest = parser.parse_known_args(command_line(arguments))
    try:
        module, data = read_settings(rest)
    except InputError as error:
        parser.exit(2, f"doctor: {printable(error)}\n")
    diagnosis, opened = examine(module, data, options.decode)
    print(printable(diagnosis.text()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(plain(diagnosis.plain()), indent=1), encoding="utf-8")
    if options.html:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        pictures = _pictures(diagnosis, opened["train"]) if "train" in opened else []
        options.html.write_text(page(f"Diagnosis of {data.root}", diagnosis, pictures), encoding="utf-8")
        print(f"\npage: {options.html}")
    parser.exit(diagnosis.exit_code(options.strict))


def _pictures(diagnosis: Diagnosis, dataset: CocoDataset) -> list[tuple[str, str]]:
    """Suspicious images with their objects, as captions and data URLs."""
    found = []
    for why, numbers in diagnosis.suspicious.items():
        for i in numbers:
            try:
                scene = dataset.scene(i)
            except ValueError:
                continue  # told already, with --decode
            picture = draw_scene(scene, dataset.annotations.categories.names)
            name = dataset.annotations.file_name(i)
            found.append((f"{why}: {shown(name)} (id {dataset.annotations.image_ids[i]})", data_url(picture, 640)))
    return found
