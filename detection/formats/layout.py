"""Parts of a data set, as the readers of its folders describe them."""

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
"""Words that a split's folder may have in its name, besides that of the split."""


@dataclass(frozen=True)
class Part:
    """One split of a data set in COCO's format."""

    images: Path
    """Folder that the file names begin at."""
    annotations: Path
    """COCO annotation file."""


@dataclass(frozen=True)
class Unread:
    """One split of a data set in another format, before its conversion."""

    images: Path
    """Folder that the file names of the COCO dict begin at."""
    files: list[Path]
    """Files that the conversion reads; some may not be there."""
    settings: list[Any]
    """What else the COCO dict depends on: values that JSON can hold."""
    read: Callable[[], tuple[dict[str, Any], Account]]
    """Return a COCO dict, and what was carried over; raises ValueError."""


@dataclass
class Found:
    """A data set in COCO's format."""

    form: str
    """Of the originals: COCO, YOLO or VOC."""
    parts: dict[str, Part] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Why a split that should be there cannot be used."""
    lines: list[str] = field(default_factory=list)
    """What the user should know."""


def split_of(name: str) -> str | None:
    """Return the split that a file or folder is named after, as ``train`` for ``instances_Train2017``; None if none.

    Example:
        >>> split_of("valid"), split_of("instances_default")
        ('val', None)
    """
    found = [split for split in SPLITS if any(word in _WORDS[split] for word in _words(name))]
    return found[0] if found else None


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())


def folder_split(path: Path) -> str | None:
    """Return the split that a folder is named after alone, as ``val`` for ``valid_images``; None if none."""
    split = split_of(path.name)
    return split if split is not None and set(_words(path.name)) <= {*_WORDS[split], *_BESIDES} else None


def split_folders(folder: Path) -> dict[str, Path]:
    """Return folders directly below one that are named after a split, by split; the first by name of each."""
    found: dict[str, Path] = {}
    for one in folders_in(folder):
        if (split := folder_split(one)) is not None:
            found.setdefault(split, one)
    return {split: found[split] for split in SPLITS if split in found}


def only_split_folders(folder: Path, holds: Callable[[Path], bool], lines: list[str]) -> dict[str, Path]:
    """Return folders as :func:`split_folders`, of those that hold data; a line names the others.

    Args:
        holds: whether a folder holds data.
        lines: takes the line.

    Raises:
        ValueError: two folders of one split.
    """
    there = [one for one in folders_in(folder) if holds(one)]
    found: dict[str, Path] = {}
    for one in there:
        if (split := folder_split(one)) is None:
            continue
        if split in found:
            raise ValueError(
                f"{folder}: {shown(found[split].name)} and {shown(one.name)} both are named after the {split} images; "
                "keep one of them there"
            )
        found[split] = one
    others = [shown(one.name) for one in there if folder_split(one) is None]
    if found and others:
        lines.append(
            f"not read, as they are named after no split: {', '.join(others[:8])}{', ...' * (len(others) > 8)}"
        )
    return {split: found[split] for split in SPLITS if split in found}


def folders_in(folder: Path) -> list[Path]:
    """Return the folders directly below one, without hidden ones and the remains of archives."""
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith((".", "__MACOSX")))


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Return files directly in a folder with one of the suffixes, sorted by name; none if there is no such folder."""
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
    except OSError:  # a link to itself
        return False


def has_images(folder: Path) -> bool:
    """Whether an image is in a folder or below it."""
    return next(_images(folder), None) is not None


def _images(folder: Path) -> Iterator[str]:
    for _, folders, names in os.walk(folder):
        folders.sort()
        yield from (name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES)


def beside(path: Path, folder: Path) -> str:
    """Return a path as a user knows it: relative to a folder if it is below that."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
