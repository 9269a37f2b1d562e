"""Find the images of a YOLO data set, and the text file of each.

YOLO's tools expect the labels of ``images/train/a.jpg`` in ``labels/train/a.txt``. If there is no folder ``images``,
they expect the text file beside the image.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.data.signatures import SUFFIXES
from detection.documents import read_text
from detection.foreign import shown
from detection.formats.account import Account
from detection.formats.places import check_apart, slashed
from detection.formats.yolo_settings import YoloSettings, is_list_of_names

SPLITS = ("train", "val", "test")
LARGEST_LIST = 256 << 20
"""Largest list of images in bytes: two million names."""


@dataclass(frozen=True)
class Labelled:
    """An image and its text file, which may not exist."""

    image: Path
    name: str
    """``file_name`` in the COCO file."""
    label: Path
    labels: Path | None
    """Folder in which every text file should belong to an image."""


def find_images(
    source: Path, images: Path | None, split: str | None, settings: YoloSettings, account: Account
) -> list[Labelled]:
    """Return all images, sorted by name, with their text files.

    Args:
        source: folder of the labels or of the whole data set, or its ``data.yaml``.
        images: image folder, if known.
        split: a split in ``data.yaml``.
        settings: from ``find_settings``.
        account: counts missing images.

    Raises:
        ValueError: there are no images, the split does not exist, or two images share a text file.
    """
    if not source.exists():
        raise ValueError(f"{source}: no such folder; give the labels, the data set or its data.yaml")
    splits = {key: settings.content[key] for key in SPLITS if settings.content.get(key)}
    own_yaml = settings.path is not None and (source.is_file() or settings.path.parent == source)
    if split is not None or (images is None and own_yaml and splits):
        found = _of_splits(settings, split, splits, images, account)
    else:
        found = _of_folders(source.parent if source.is_file() else source, images)
    if not found:
        raise ValueError(f"{images or source}: contains no images; give the image folder with --images")
    check_apart((one.name, one.label) for one in found)
    return found


def unused_labels(listed: Sequence[Labelled]) -> int:
    """Return the number of text files in the label folders that belong to no image."""
    known = {os.path.normpath(one.label) for one in listed}
    folders = {one.labels for one in listed if one.labels is not None}
    texts = (path for folder in folders for path in folder.rglob("*.txt"))
    return sum(os.path.normpath(path) not in known and not is_list_of_names(path) for path in texts)


def is_there(settings: YoloSettings, split: str) -> bool:
    """Return whether at least one image of a split in ``data.yaml`` exists."""
    assert settings.path is not None
    root = _root(settings)
    entries = _entries(settings.content[split], f"{settings.path}: {split}")
    places = (_resolved(entry, root, settings.path.parent) for entry in entries)
    return any(next(_images_of(place, root, Account()), None) for place in places if place is not None)


def _of_folders(source: Path, images: Path | None) -> list[Labelled]:
    """Return the images of a folder, with the label folder that matches most of them."""
    folder = images or _images_beside(source)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the image folder with --images")
    relative = [path.relative_to(folder) for path in _images_below(folder)]
    candidates = list(_candidates(source, folder))
    # If several are equal, max takes the first.
    labels, label_of = max(candidates, key=lambda one: sum(one[1](path).is_file() for path in relative))
    unused = labels if labels.is_dir() else None
    return [Labelled(folder / path, path.as_posix(), label_of(path), unused) for path in relative]


def _images_beside(source: Path) -> Path:
    """Return the image folder for a folder of labels or of a data set."""
    if (source / "images").is_dir():
        return source / "images"
    exchanged = _exchanged(source, "labels", "images")
    return exchanged if exchanged is not None and exchanged.is_dir() else source


def _candidates(source: Path, images: Path) -> Iterator[tuple[Path, Callable[[Path], Path]]]:
    """Yield possible label folders, each with a function from an image's relative path to its text file."""

    def below(folder: Path) -> Callable[[Path], Path]:
        return lambda path: (folder / path).with_suffix(".txt")

    parts = images.absolute().parts
    place = len(parts) - parts[::-1].index("images") if "images" in parts else len(parts)
    for folder in (source, source / "labels"):
        yield folder, below(folder)
        if tail := parts[place:]:  # images/train has its labels in labels/train
            yield folder.joinpath(*tail), below(folder.joinpath(*tail))
    yield source / "labels", lambda path: source / _label_path(path)


def _of_splits(
    settings: YoloSettings, split: str | None, splits: dict[str, Any], images: Path | None, account: Account
) -> list[Labelled]:
    """Return the images that ``data.yaml`` names: by folders, lists of images, or text files with such lists."""
    if split is not None and split not in splits:
        where = settings.path or "no data.yaml"
        raise ValueError(f"--split {shown(split)}: {where} has {', '.join(splits) or 'no splits'}; give one of them")
    assert settings.path is not None
    root = _root(settings)
    found: dict[str, Path] = {}
    folders: set[Path] = set()
    for key in splits if split is None else [split]:
        for entry in _entries(splits[key], f"{settings.path}: {key}"):
            place = _resolved(entry, root, settings.path.parent)
            if place is None and split is None:
                account.lose(f"splits whose images are missing ({key})")
            elif place is None:
                raise ValueError(
                    f"{settings.path}: {key} is {shown(entry)}, which does not exist; correct path or {key}"
                )
            else:
                folders.add(place if place.is_dir() else root)
                for path in _images_of(place, root, account):
                    found.setdefault(os.path.normpath(path.absolute()), path)
    base = images or (folders.pop() if len(folders) == 1 else root)
    base = Path(os.path.normpath(base.absolute()))
    account.notes.append(f"file names are relative to {shown(base, None)}: use it as the image folder")
    listed = []
    for text in sorted(found):
        path = Path(text)
        if not path.is_relative_to(base):
            raise ValueError(
                f"{shown(text, None)}: is not below {base}; give a folder that contains all images with --images"
            )
        listed.append(Labelled(path, path.relative_to(base).as_posix(), _label_path(path), None))
    return listed


def _root(settings: YoloSettings) -> Path:
    """Return the data set's folder: ``path`` in data.yaml (relative to the file, or as is), else the file's folder."""
    assert settings.path is not None
    beside = settings.path.parent
    given = settings.content.get("path")
    if isinstance(given, str) and given:
        for place in (beside / slashed(given), Path(slashed(given))):
            if os.path.isdir(place):
                return place
    return beside


def _entries(value: Any, where: str) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) and entry and "\0" not in entry for entry in entries):
        raise ValueError(f"{where} is {shown(value)}; give a folder, a text file, or a list of them")
    return entries


def _resolved(entry: str, root: Path, beside: Path) -> Path | None:
    """Return the path of an entry, or None. Some tools write ``../train/images`` for ``train/images``."""
    name = slashed(entry)
    tried = [root / name, beside / name, root / name.removeprefix("../")]
    return next((place for place in tried if os.path.exists(place)), None)


def _images_of(place: Path, root: Path, account: Account) -> Iterator[Path]:
    if place.is_dir():
        yield from _images_below(place)
    elif place.suffix.lower() in SUFFIXES:
        yield place
    else:
        for line in read_text(place, LARGEST_LIST).splitlines():
            name = slashed(line.strip())
            if not name or "\0" in name:
                continue
            tried = [place.parent / name, root / name]
            path = next((one for one in tried if os.path.isfile(one)), None)
            if path is None:
                account.lose("listed images that are missing")
            else:
                yield path


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _label_path(image: Path) -> Path:
    """Return the text file that YOLO's tools expect for an image."""
    return (_exchanged(image, "images", "labels") or image).with_suffix(".txt")


def _exchanged(path: Path, old: str, new: str) -> Path | None:
    """Replace the last component named ``old`` in a path; return None if there is none."""
    parts = list(path.parts)
    if old not in parts:
        return None
    parts[len(parts) - 1 - parts[::-1].index(old)] = new
    return Path(*parts)
