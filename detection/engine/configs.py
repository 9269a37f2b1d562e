"""Config files: where they are found, how strictly they are read, and how mistakes in them are told."""

import difflib
import fnmatch
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from detection.documents import LARGEST_YAML, DocumentError, parse_yaml, read_text
from detection.engine.hints import nearest, nearest_config, nearest_subcommand
from detection.foreign import shown
from detection.home import with_home

HINTS = {"num_classes": "the number of classes and their names come from the annotations alone; leave it out"}
"""Why there is no such option."""


def folders() -> list[Path]:
    """Where the shipped configs are: in the installed package, or beside the package in a checkout."""
    spec = importlib.util.find_spec("detection.configs")
    if spec is not None and spec.submodule_search_locations:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(__file__).resolve().parents[2] / "configs"]


def shipped() -> dict[str, Path]:
    """The shipped configs by name: ``mask_rcnn_r50_fpn_1x_coco``, ``schedules/3x``, ..."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in folders()
        for path in sorted(folder.rglob("*.yaml"))
    }


def list_configs(pattern: str = "*") -> list[str]:
    """List the names of the shipped configs, as ``--config`` takes them.

    Args:
        pattern: with ``*`` and ``?``.

    Example:
        >>> list_configs("mask_rcnn_r50_fpn_1x*")
        ['mask_rcnn_r50_fpn_1x_coco']
    """
    return sorted(fnmatch.filter(shipped(), pattern))


def find_config(name: str) -> str:
    """The file that a ``--config`` names: a path, or a shipped config with or without ``.yaml``.

    Raises:
        FileNotFoundError: with the nearest names.
    """
    name = with_home(name)
    if Path(name).is_file():
        return name
    known = shipped()
    key = name.removeprefix("configs/").removesuffix(".yaml")
    if key in known:
        return str(known[key])
    if "://" in name:
        raise FileNotFoundError(f"--config {name}: a URL; download the file, and give its path")
    raise FileNotFoundError(
        f"no config {name}{nearest_config(key, list(known)) or '; shipped are ' + ', '.join(known)}"
    )


def load_yaml(text: str) -> Any:
    """Read YAML with jsonargparse's types, after :func:`detection.documents.parse_yaml` has checked it.

    Raises:
        DocumentError: not YAML, a key twice in one mapping, or what else the check rejects.
    """
    parse_yaml(text, "the settings")
    try:
        return get_loader("yaml")(text)
    except Exception as error:  # PyYAML raises many kinds for a value that is not of its tag
        raise DocumentError(f"the settings: not valid YAML ({shown(error, 120)})") from error


def explain(message: str, options: Sequence[str], files: Sequence[str]) -> str:
    """A parser's message in a few lines, with the nearest option and the place in the configs.

    Args:
        options: all that exist, ``model.backbone.name``, ...
        files: the configs that were given.
    """
    if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
        return _shorten(message) + nearest_subcommand(match[1], re.findall(r"\w+", match[2]))
    key = wrong_key(message)
    if key is None:
        return _shorten(message).replace(
            "the settings: not valid", f"{files[-1] if files else 'the settings'}: not valid"
        )
    for word, reason in HINTS.items():
        if key.rsplit(".", 1)[-1] == word:
            return f"no option {key}: {reason}{_place(key, files)}"
    return f"no option {key}{_place(key, files)}{nearest(key, options)}"


def wrong_key(message: str) -> str | None:
    """The full name of the option that a parser's message rejects."""
    patterns = (
        r"unrecognized arguments: --?([\w.-]+)",
        r"(?:Group|Subcommand) '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'",
        r"Option '([\w.]+)' is not accepted",
    )
    for pattern in patterns:
        if match := re.search(pattern, message):
            groups = match.groupdict()
            if "group" not in groups:
                return match[1]
            is_subcommand = message[match.start() :].startswith("Subcommand")
            return groups["key"] if is_subcommand else f"{groups['group']}.{groups['key']}"
    return None


def _shorten(message: str) -> str:
    """A message about a value without what explains the parser to its author."""
    lines = [line.strip(" -") for line in message.splitlines()]
    noise = ("Does not validate against any", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>")
    lines = [line for line in lines if line and not line.startswith(noise)]
    lines = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", line) for line in lines]
    lines = [re.sub(r"^Parser key \"([\w.]+)\"", r"\1", line) for line in lines]
    value = re.search(r"Got value: (\w+)", message)
    choices = re.findall(r"'([\w-]+)'", "".join(line for line in lines if "Literal[" in line))
    hint = difflib.get_close_matches(value[1], choices, n=1) if value and choices else []
    lines = [re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", line) for line in lines]
    if hint:
        lines[-1] += f"; did you mean {hint[0]}?"
    return "\n  ".join([*lines[:5], *(["..."] if len(lines) > 5 else [])])


def _place(key: str, files: Sequence[str]) -> str:
    """`` (FILE, line N)``, the last that sets the option."""
    for file in reversed(files):
        text = read_text(file, LARGEST_YAML)  # was checked when it was loaded
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        line = None
        for part in key.split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            match = next(((name, value) for name, value in pairs if name.value == part), None)
            if match is None:
                break
            line, node = match[0].start_mark.line + 1, match[1]
        else:
            return f" ({file}, line {line})"
    return ""
