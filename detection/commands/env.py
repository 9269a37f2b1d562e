"""Print versions and hardware, for a bug report."""

import argparse

from detection.commands.options import add_shared
from detection.commands.printing import write_json

EPILOG = """\
example:
  rcnn env"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_shared(parser, "json")


def run(options: argparse.Namespace) -> None:
    """Print a line for each package and device."""
    from detection.provenance import environment

    found = environment()
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value}")
    write_json(found, options.json)
