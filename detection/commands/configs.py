"""List the configurations that come with the toolkit, or show one.

A name works wherever a command takes a CONFIG. `show` prints the settings of all parts together, as a file that you can
copy and change. `rcnn train NAME --print_config` adds the defaults of all other settings.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from detection.commands.options import add_shared
from detection.commands.printing import write_json
from detection.foreign import shown

if TYPE_CHECKING:
    from detection.engine.configs import ConfigInfo

EPILOG = """\
example:
  rcnn configs list "mask*"
  rcnn configs show mask_rcnn_r50_fpn_1x_coco > mine.yaml"""

PUBLISHED = "published by others for this recipe, on COCO val2017; not measured with this toolkit"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    words = parser.add_subparsers(dest="word", required=True, metavar="list|show")
    names = words.add_parser("list", help="print names, parts and published AP")
    names.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help='names to print, as "mask*"')
    add_shared(names, "json")
    show = words.add_parser("show", help="print the settings of a configuration and its parts")
    show.add_argument("name", metavar="NAME", help="name or file of a configuration")
    add_shared(show, "json")


def run(options: argparse.Namespace) -> None:
    """List the configs, or show one."""
    if options.word == "show":
        _show(options.name, options.json)
    else:
        _list(options.pattern, options.json)


def _list(pattern: str, place: str | None) -> None:
    """Print a line for each config whose name matches."""
    from detection.engine.configs import list_configs

    found = list_configs(pattern)
    if not found:
        raise ValueError(f"no config matches {pattern}; `rcnn configs list` prints all")
    width = max(len(config.name) for config in found)
    print(f"{'':{width}}  box AP  mask AP  keypoint AP  parts, or what it is (AP: {PUBLISHED})")
    for config in found:
        what = " + ".join([*config.parts, *([config.title] if config.title else [])])
        aps = "  ".join((_ap(config.box_ap, 6), _ap(config.mask_ap, 7), _ap(config.keypoint_ap, 11)))
        print(f"{config.name:{width}}  {aps}  {what}{_source(config)}")
    write_json([_plain(config) for config in found], place)


def _ap(value: float | None, width: int) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}.1f}"


def _source(config: "ConfigInfo") -> str:
    return f" (AP: {config.source})" if config.source else ""


def _plain(config: "ConfigInfo") -> dict[str, Any]:
    """Return what JSON holds of a config."""
    from dataclasses import asdict

    return asdict(config)


def _show(name: str, place: str | None) -> None:
    """Print the settings of a config: a file as it is, and one with parts as they come together."""
    from detection.documents import LARGEST_YAML, read_text
    from detection.engine.configs import read_config, write_settings

    config = read_config(name)
    info = config.info
    if config.is_one_file:
        sys.stdout.write(read_text(config.files[-1], LARGEST_YAML))
    else:
        lines = [info.title, f"{info.name} = {' + '.join(info.parts)}" if info.parts else ""]
        figures = {"box AP": info.box_ap, "mask AP": info.mask_ap, "keypoint AP": info.keypoint_ap, "PQ": info.pq}
        if published := ", ".join(f"{name} {value}" for name, value in figures.items() if value is not None):
            lines += [f"{published[0].upper()}{published[1:]} ({info.source}), {PUBLISHED}"]
        print("".join(f"# {shown(line, None)}\n" for line in lines if line) + write_settings(config.settings), end="")
    write_json({**_plain(info), "settings": config.settings}, place)
