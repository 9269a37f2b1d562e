"""Draw the curves of one or more runs: losses, AP and learning rate."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detection.commands.options import add_shared

EPILOG = """\
example:
  rcnn plot runs/first runs/second --output curves.png"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    output = {"default": Path("curves.png"), "metavar": "FILE", "help": "plot to write: .png, .svg or .pdf"}
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    add_shared(parser, "output", output=output)
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="moving average over N values (default 1)")


def run(options: argparse.Namespace) -> None:
    """Draw the curves, and print the path of the plot."""
    from detection.curves import plot, read_run

    plot({name: read_run(path) for name, path in _named(options.runs)}, options.output, max(1, options.smooth))
    print(options.output)


def _named(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Name each run by the shortest end of its path that no other run has."""
    for depth in range(1, 9):
        names = ["/".join(path.resolve().parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return list(zip(names, paths, strict=True))
