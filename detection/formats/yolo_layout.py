"""Find the splits of a YOLO data set, in its ``data.yaml`` or by the names of its folders.

This works for data sets of Ultralytics and Roboflow, for exports of CVAT and Label Studio, for folders ``images`` and
``labels``, and for text files beside the images.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from detection.data.signatures import SUFFIXES
from detection.documents import read_yaml
from detection.foreign import shown
from detection.formats.account import Account
from detection.formats.layout import (
    SPLITS,
    Unread,
    files_in,
    folders_in,
    has_images,
    only_split_folders,
    split_folders,
    split_of,
)
from detection.formats.yolo import coco_of
from detection.formats.yolo_folders import Labelled, find_images, is_there
from detection.formats.yolo_settings import YoloSettings, find_settings
from detection.wording import plural


def yolo_sign(folder: Path) -> str | None:
    """Return the path of a data.yaml or label file in a folder, relative to it; None if this is not YOLO."""
    for path in files_in(folder, ".yaml", ".yml"):
        if _is_settings(path):
            return path.name
    for name in ("labels", *(f"{one.name}/labels" for one in split_folders(folder).values())):
        label = next((folder / name).rglob("*.txt"), None)
        if label is not None:
            return label.relative_to(folder).as_posix()
    for place in (folder, *split_folders(folder).values(), *_darknet(folder).values()):
        stems = {path.stem for path in files_in(place, *SUFFIXES)}
        label = next((path for path in files_in(place, ".txt") if path.stem in stems), None)
        if label is not None:
            return label.relative_to(folder).as_posix()
    return None


def yolo_splits(path: Path) -> tuple[dict[str, Unread], dict[str, str], list[str]]:
    """Find the splits of a YOLO data set.

    Args:
        path: a folder, or a ``data.yaml``.

    Returns:
        The readable splits; for each other split the reason why it cannot be read; and lines for the user.

    Raises:
        ValueError: there are no class names.
    """
    folder = path.parent if path.is_file() else path
    settings = find_settings(path)
    sources: dict[str, tuple[Path, Path | None, str | None, YoloSettings]]
    named = {split: settings.content[split] for split in SPLITS if settings.content.get(split)}
    found: dict[str, Unread] = {}
    failed: dict[str, str] = {}
    lines = [f"names of {plural(len(settings.names), 'class')} from {settings.source}"]
    if named and settings.path is not None and settings.path.parent == folder:
        sources = {split: (path, None, split, settings) for split in named}
        for split in [one for one in named if not is_there(settings, one)]:
            message = f"{settings.path}: {split} is {shown(named[split])}, but there are no images"
            if split == "train":
                failed[split] = f"{message}; correct path or train"
            else:  # some exports name folders that do not exist
                lines.append(message)
            del sources[split]
    else:
        sources = {
            split: (labels, images, None, settings if path.is_file() else find_settings(labels))
            for split, (labels, images) in _folders(folder, lines)
        }
    for split, source in sources.items():
        try:
            found[split] = _unread(*source)
        except ValueError as error:
            failed[split] = str(error)
    return found, failed, lines


def _folders(folder: Path, lines: list[str]) -> Iterator[tuple[str, tuple[Path, Path | None]]]:
    """Yield (split, (label folder, image folder)), for :func:`find_images`."""
    if (folder / "images").is_dir() and (below := only_split_folders(folder / "images", has_images, lines)):
        yield from ((split, (folder, images)) for split, images in below.items())
        return
    several = only_split_folders(folder, has_images, lines) or _darknet(folder)
    if several:
        yield from ((split, (one, None)) for split, one in several.items())
        return
    yield "train", (folder, None)


def _darknet(folder: Path) -> dict[str, Path]:
    """Return darknet's folders of images and labels, such as ``obj_train_data``, by split."""
    found = {split_of(one.name): one for one in folders_in(folder) if re.fullmatch(r"obj_\w+_data", one.name)}
    return {split: found[split] for split in SPLITS if split in found}


def _unread(source: Path, images: Path | None, split: str | None, settings: YoloSettings) -> Unread:
    listed = find_images(source, images, split, settings, Account())
    files = [path for one in listed for path in (one.image, one.label)]
    kinds: list[Any] = [settings.names, settings.keypoints, settings.keypoint_names]
    return Unread(_base(listed[0]), files, kinds, partial(_read, source, images, split, settings))


def _read(
    source: Path, images: Path | None, split: str | None, settings: YoloSettings
) -> tuple[dict[str, Any], Account]:
    account = Account()
    listed = find_images(source, images, split, settings, account)
    account.notes.clear()  # they name the image folder, which the caller knows
    return coco_of(listed, settings, source, account), account


def _base(one: Labelled) -> Path:
    """Return the folder that the image names are relative to."""
    return one.image.parents[len(PurePosixPath(one.name).parts) - 1]


def _is_settings(path: Path) -> bool:
    try:
        content = read_yaml(path)
    except ValueError:
        return path.name == "data.yaml"  # so that the user gets the error of this file
    return isinstance(content, dict) and "names" in content
