"""The parts (splits) of a data set, and helpers to find their folders."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.data.signatures import SUFFIXES
from detection.foreign import shown
from detection.formats.account import Account

SPLITS = ("train", "val", "test")

_WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "minival"),
    "test": ("test", "testing"),
}
_BESIDES = {"images", "imgs", "image", "img", "set", "data", "dataset", "split", "annotations", "labels", "coco"}
"""Words that the name of a split's folder may contain beside the split's name."""


@dataclass(frozen=True)
class Part:
    """One split of a data set in COCO's format."""

    images: Path
    """Folder that the file names are relative to."""
    annotations: Path
    """COCO annotation file."""


@dataclass(frozen=True)
class Unread:
    """One split of a data set in another format, before its conversion."""

    images: Path
    """Folder that the file names in the COCO dict are relative to."""
    files: list[Path]
    """Files that the conversion reads; some may be missing."""
    settings: list[Any]
    """Everything else that the COCO dict depends on, as JSON values."""
    read: Callable[[], tuple[dict[str, Any], Account]]
    """Function that returns a COCO dict and the counts; it raises ValueError."""


@dataclass
class Found:
    """A data set in COCO's format."""

    form: str
    """Format of the original data: COCO, YOLO or VOC."""
    parts: dict[str, Part] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """For each split that exists but cannot be used, the reason."""
    lines: list[str] = field(default_factory=list)
    """Lines to show to the user."""


def split_of(name: str) -> str | None:
    """Return the split in the name of a file or folder, such as ``train`` for ``instances_Train2017``; else None.

    Example:
        >>> split_of("valid"), split_of("instances_default")
        ('val', None)
    """
    found = [split for split in SPLITS if any(word in _WORDS[split] for word in _words(name))]
    return found[0] if found else None


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())


def folder_split(path: Path) -> str | None:
    """Return the split if a folder's name means nothing else, such as ``val`` for ``valid_images``; else None."""
    split = split_of(path.name)
    return split if split is not None and set(_words(path.name)) <= {*_WORDS[split], *_BESIDES} else None


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolder of each split; if a split has several, the first by name."""
    found: dict[str, Path] = {}
    for one in folders_in(folder):
        if (split := folder_split(one)) is not None:
            found.setdefault(split, one)
    return {split: found[split] for split in SPLITS if split in found}


def only_split_folders(folder: Path, holds: Callable[[Path], bool], lines: list[str]) -> dict[str, Path]:
    """Return the subfolder of each split that contains data, and add a line about other subfolders with data.

    Args:
        folder: the data set.
        holds: function that returns whether a folder contains data.
        lines: list that gets the line.

    Raises:
        ValueError: a split has two folders.
    """
    there = [one for one in folders_in(folder) if holds(one)]
    found: dict[str, Path] = {}
    for one in there:
        if (split := folder_split(one)) is None:
            continue
        if split in found:
            raise ValueError(
                f"{folder}: {shown(found[split].name)} and {shown(one.name)} both look like the {split} split; "
                "keep only one of them"
            )
        found[split] = one
    others = [shown(one.name) for one in there if folder_split(one) is None]
    if found and others:
        lines.append(
            f"not read, because their names contain no split: {', '.join(others[:8])}{', ...' * (len(others) > 8)}"
        )
    return {split: found[split] for split in SPLITS if split in found}


def folders_in(folder: Path) -> list[Path]:
    """Return the direct subfolders, without hidden ones and leftovers of archives."""
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith((".", "__MACOSX")))


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files with one of the suffixes directly in a folder, sorted by name; [] if there is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [
            one.name
            for one in entries
            if one.name.lower().endswith(suffixes) and not one.name.startswith(".") and _is_file(one)
        ]
    return [folder / name for name in sorted(names)]


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a symbolic link to itself
        return False


def has_images(folder: Path) -> bool:
    """Return whether a folder or one of its subfolders contains an image."""
    return next(_images(folder), None) is not None


def _images(folder: Path) -> Iterator[str]:
    for _, folders, names in os.walk(folder):
        folders.sort()
        yield from (name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES)


def beside(path: Path, folder: Path) -> str:
    """Return a path for messages: relative to ``folder`` if it is below it, else unchanged."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
