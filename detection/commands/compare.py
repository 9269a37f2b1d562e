"""Compare evaluations of the same images: differences of AP with confidence intervals.

Each evaluation after the first is compared with the first.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from detection.commands.options import add_shared
from detection.commands.printing import write_json

EPILOG = """\
example:
  rcnn evaluate runs/first --data my_data --output old
  rcnn evaluate runs/second --data my_data --output new
  rcnn compare old new"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("first", type=Path, metavar="FIRST", help="folder that rcnn evaluate wrote")
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER", help="one or more other such folders")
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="the annotation file, if it is not where it was"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images (default that of the evaluations)"
    )
    resamplings = "bootstrap samples for the intervals (default 1000)"
    parser.add_argument("--resamplings", type=int, default=1000, metavar="N", help=resamplings)
    add_shared(parser, "output", "json", output={"help": "folder for comparison.html and comparison.json"})


def run(options: argparse.Namespace) -> None:
    """Compare two evaluations, print the differences, and write the page."""
    from detection.inference.options import check_least
    from detection.report.changed import changed_images
    from detection.report.compare import text
    from detection.report.compare_page import page
    from detection.report.comparison import compare_evaluations
    from detection.report.files import plain

    check_least(options, {"resamplings": 0})
    summary = {}
    for other in options.others:
        found = compare_evaluations(options.first, other, options.annotations, options.resamplings)
        rows = {
            key: [asdict(d) | {"verdict": d.verdict} for d in differences]
            for key, differences in found.differences.items()
        }
        summary[str(other)] = plain(rows)
        if options.json != "-":
            print(
                f"{other} against {options.first}:" if len(options.others) > 1 else "",
                end="\n" * (len(options.others) > 1),
            )
            print(text(found.differences, numbers=found.numbers))
        if options.output:
            folder = options.output if len(options.others) == 1 else options.output / other.name
            folder.mkdir(parents=True, exist_ok=True)
            changed = []
            if found.has_objects:
                changed = changed_images(options.first, other, options.annotations, options.images)
            html = page(str(options.first), str(other), found.differences, changed)
            (folder / "comparison.html").write_text(html, encoding="utf-8")
            images = [
                {key: getattr(one, key) for key in ("image_id", "file_name", "first", "second")} for one in changed
            ]
            write_json(plain(rows | {"changed_images": images}), str(folder / "comparison.json"))
            print(f"comparison: {folder / 'comparison.html'}")
    write_json(summary, options.json)
