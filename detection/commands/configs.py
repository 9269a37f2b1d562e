"""List the configurations that come with the toolkit, or show one.

A name works wherever a command takes a CONFIG. `show` prints the complete file, which you can copy and change.
"""

import argparse
import sys

from detection.commands.options import add_shared
from detection.commands.printing import write_json

EPILOG = """\
example:
  rcnn configs list "mask*"
  rcnn configs show mask_rcnn_r50_fpn_1x_coco > mine.yaml"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    words = parser.add_subparsers(dest="word", required=True, metavar="list|show")
    names = words.add_parser("list", help="print names with their first line")
    names.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help='names to print, as "mask*"')
    add_shared(names, "json")
    show = words.add_parser("show", help="print a configuration")
    show.add_argument("name", metavar="NAME", help="name or file of a configuration")


def run(options: argparse.Namespace) -> None:
    """List or show."""
    from detection.documents import LARGEST_YAML, read_text
    from detection.engine.configs import find_config, list_configs, shipped

    if options.word == "show":
        sys.stdout.write(read_text(find_config(options.name), LARGEST_YAML))
        return
    names = list_configs(options.pattern)
    if not names:
        raise ValueError(f"no config matches {options.pattern}; `rcnn configs list` prints all")
    known = shipped()
    rows = {name: read_text(str(known[name]), LARGEST_YAML).splitlines()[0].lstrip("# ") for name in names}
    width = max(map(len, names))
    for name, line in rows.items():
        print(f"{name:{width}}  {line}")
    write_json(rows, options.json)
