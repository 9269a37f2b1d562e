"""Where the images of a YOLO data set are, and the text file of each.

YOLO's tools look for the labels of ``images/train/a.jpg`` in ``labels/train/a.txt``; without a folder ``images``,
beside the image.
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
"""Bytes of a list of images: two million names."""


@dataclass(frozen=True)
class Labelled:
    """An image and its text file, which need not exist."""

    image: Path
    name: str
    """``file_name`` in the COCO file."""
    label: Path
    labels: Path | None
    """The folder below which text files should all belong to images."""


def find_images(
    source: Path, images: Path | None, split: str | None, settings: YoloSettings, account: Account
) -> list[Labelled]:
    """All images, sorted by name.

    Args:
        source: a folder of labels or of a whole data set, or its ``data.yaml``.
        images: the folder of the images if it is known.
        split: one of those in ``data.yaml``.

    Raises:
        ValueError: no images, no such split, or two images that share a text file.
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
        raise ValueError(f"{images or source}: has no images; give their folder with --images")
    check_apart((one.name, one.label) for one in found)
    return found


def unused_labels(listed: Sequence[Labelled]) -> int:
    """How many text files in the folders of labels belong to no image."""
    known = {os.path.normpath(one.label) for one in listed}
    folders = {one.labels for one in listed if one.labels is not None}
    texts = (path for folder in folders for path in folder.rglob("*.txt"))
    return sum(os.path.normpath(path) not in known and not is_list_of_names(path) for path in texts)


def is_there(settings: YoloSettings, split: str) -> bool:
    """Return whether an image that ``data.yaml`` names for a split is on the disk."""
    assert settings.path is not None
    root = _root(settings)
    entries = _entries(settings.content[split], f"{settings.path}: {split}")
    places = (_resolved(entry, root, settings.path.parent) for entry in entries)
    return any(next(_images_of(place, root, Account()), None) for place in places if place is not None)


def _of_folders(source: Path, images: Path | None) -> list[Labelled]:
    """Images of a folder, with the labels that are found for most of them."""
    folder = images or _images_beside(source)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give that of the images with --images")
    relative = [path.relative_to(folder) for path in _images_below(folder)]
    candidates = list(_candidates(source, folder))
    # On equal terms, the first.
    labels, label_of = max(candidates, key=lambda one: sum(one[1](path).is_file() for path in relative))
    unused = labels if labels.is_dir() else None
    return [Labelled(folder / path, path.as_posix(), label_of(path), unused) for path in relative]


def _images_beside(source: Path) -> Path:
    """The folder of the images for one of labels or of a data set."""
    if (source / "images").is_dir():
        return source / "images"
    exchanged = _exchanged(source, "labels", "images")
    return exchanged if exchanged is not None and exchanged.is_dir() else source


def _candidates(source: Path, images: Path) -> Iterator[tuple[Path, Callable[[Path], Path]]]:
    """Where labels may be: a folder, and the text file there of an image's path below ``images``."""

    def below(folder: Path) -> Callable[[Path], Path]:
        return lambda path: (folder / path).with_suffix(".txt")

    parts = images.absolute().parts
    place = len(parts) - parts[::-1].index("images") if "images" in parts else len(parts)
    for folder in (source, source / "labels"):
        yield folder, below(folder)
        if tail := parts[place:]:  # images/train has its labels in labels/train
            yield folder.joinpath(*tail), below(folder.joinpath(*tail))
    yield source / "labels", lambda path: source / _mirrored(path)


def _of_splits(
    settings: YoloSettings, split: str | None, splits: dict[str, Any], images: Path | None, account: Account
) -> list[Labelled]:
    """Images as ``data.yaml`` lists them: folders, lists of images, or text files of such lists."""
    if split is not None and split not in splits:
        where = settings.path or "no data.yaml"
        raise ValueError(f"--split {shown(split)}: {where} has {', '.join(splits) or 'no splits'}")
    assert settings.path is not None
    root = _root(settings)
    found: dict[str, Path] = {}
    folders: set[Path] = set()
    for key in splits if split is None else [split]:
        for entry in _entries(splits[key], f"{settings.path}: {key}"):
            place = _resolved(entry, root, settings.path.parent)
            if place is None and split is None:
                account.lose(f"splits whose images are not there ({key})")
            elif place is None:
                raise ValueError(f"{settings.path}: {key} is {shown(entry)}, which is not there; correct path or {key}")
            else:
                folders.add(place if place.is_dir() else root)
                for path in _images_of(place, root, account):
                    found.setdefault(os.path.normpath(path.absolute()), path)
    base = images or (folders.pop() if len(folders) == 1 else root)
    base = Path(os.path.normpath(base.absolute()))
    account.notes.append(f"file names are below {shown(base, None)}: give it as the folder of the images")
    listed = []
    for text in sorted(found):
        path = Path(text)
        if not path.is_relative_to(base):
            raise ValueError(f"{shown(text, None)}: is not below {base}; give a folder above all images with --images")
        listed.append(Labelled(path, path.relative_to(base).as_posix(), _mirrored(path), None))
    return listed


def _root(settings: YoloSettings) -> Path:
    """The folder of the data set: ``path`` in data.yaml, below that file or as it is, or the file's own folder."""
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
    """Where an entry is; some tools write ``../train/images`` for ``train/images``."""
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
                account.lose("listed images that are not there")
            else:
                yield path


def _images_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _mirrored(image: Path) -> Path:
    """The text file of an image as YOLO's tools find it."""
    return (_exchanged(image, "images", "labels") or image).with_suffix(".txt")


def _exchanged(path: Path, old: str, new: str) -> Path | None:
    """The path with its last part of that name exchanged; None if it has none."""
    parts = list(path.parts)
    if old not in parts:
        return None
    parts[len(parts) - 1 - parts[::-1].index(old)] = new
    return Path(*parts)
