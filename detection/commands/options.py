"""Options that many commands share, with one name and one meaning; a command adds the ones that it needs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.foreign import is_number

MODEL = "a run's folder, a checkpoint, a .safetensors file, an export, or published weights (rcnn models list)"
"""Help text of each option for a model."""

DATA = "a data set: a folder in COCO, YOLO or VOC form, a data.yaml, or a COCO annotation file"
"""Help text of each option for a data set."""

SHARED: dict[str, dict[str, Any]] = {
    "output": {"flags": ("-o", "--output"), "type": Path, "metavar": "DIR", "help": "folder or file to write"},
    "device": {"metavar": "NAME", "default": "auto", "help": "auto (GPU if there is one), cpu, cuda or cuda:1"},
    "precision": {
        "choices": ("auto", "fp32", "bf16", "fp16"),
        "default": "auto",
        "help": "number format of the computation",
    },
    "batch": {"type": int, "metavar": "N", "help": "images at a time"},
    "workers": {"type": int, "metavar": "N", "help": "processes that load images"},
    "size": {
        "type": int,
        "nargs": 2,
        "metavar": ("SHORT", "LONG"),
        "help": "sides to resize images to, in pixels; LONG may be missing",
    },
    "score": {"type": float, "metavar": "S", "help": "drop detections with a lower score"},
    "seed": {"type": int, "metavar": "N", "default": 0, "help": "seed of all random numbers"},
    "verbose": {"flags": ("-v", "--verbose"), "action": "store_true", "help": "print more"},
    "quiet": {"flags": ("-q", "--quiet"), "action": "store_true", "help": "print only warnings and errors"},
    "json": {
        "nargs": "?",
        "const": "-",
        "metavar": "FILE",
        "help": "write a summary as JSON to FILE, or to stdout if no FILE is given",
    },
    "trust_code": {"action": "store_true", "help": "import the custom backbone that a checkpoint names"},
    "debug": {"action": "store_true", "help": "show the traceback of an error"},
}
"""Keyword arguments of ``add_argument`` by option, and ``flags`` if the option has a short form."""


def with_long_sides(given: Sequence[str]) -> list[str]:
    """Return the words of a command line; a ``--size`` with one number gets its longest side, in COCO's proportion.

    argparse cannot do this: with one or two numbers, an option would also take the image that follows it.

    Example:
        >>> with_long_sides(["--size", "800", "street.jpg"])
        ['--size', '800', '1333', 'street.jpg']
    """
    words = [part for word in given for part in (word.split("=", 1) if word.startswith("--size=") else [word])]
    for place in reversed([i for i, word in enumerate(words) if word == "--size"]):
        numbers = [word.isdecimal() for word in words[place + 1 : place + 3]]
        if numbers in ([True], [True, False]):
            words.insert(place + 2, str(round(int(words[place + 1]) * 1333 / 800)))
    return words


def add_shared(parser: argparse.ArgumentParser, *names: str, **changes: dict[str, Any]) -> None:
    """Add options of :data:`SHARED` to a parser.

    Args:
        changes: keyword arguments of ``add_argument`` that replace those of an option, such as its default.
    """
    for name in names:
        given = SHARED[name] | changes.get(name, {})
        flags = given.pop("flags", (f"--{name.replace('_', '-')}",))
        if given.get("default") not in (None, False, "auto") and "default" not in given["help"]:
            given["help"] += f" (default {given['default']})"
        parser.add_argument(*flags, **given)


def repeat_score(arguments: Sequence[str]) -> list[str]:
    """Repeat ``--score`` before each of its words: argparse would read words after them as thresholds."""
    spread: list[str] = []
    for word in arguments:
        name, _, number = word.rpartition("=")
        follows = spread[-2:-1] == ["--score"] or (spread and spread[-1].startswith("--score="))
        spread += ["--score", word] if follows and name and is_number(number) else [word]
    return spread
