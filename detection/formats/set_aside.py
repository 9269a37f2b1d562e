"""Validation images for a data set that has none: a part of the training images, without their copies in the rest."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from detection.coco.ids import identity
from detection.coco.read import lists_of
from detection.data.names import image_path
from detection.documents import read_json
from detection.foreign import shown
from detection.formats.kept import fingerprint, kept, write_json
from detection.formats.layout import Found, Part
from detection.formats.split import split
from detection.wording import plural

_HEAD = 1 << 12


def with_validation(found: Found, path: Path, fraction: float, seed: int, cache: Path) -> None:
    """Split the training images of a data set, and say so; the files go into the cache.

    Args:
        path: of the data set, for messages.
        fraction: part of the images for validation.

    Raises:
        ValueError: a fraction that is not between 0 and 1, or under two images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction {fraction:g} must be between 0 and 1")
    whole = found.parts["train"]

    def make(folder: Path) -> dict[str, Any]:
        content = read_annotations(whole.annotations)
        together = marks(content, whole.images)
        try:
            parts = split(content, {"train": 1 - fraction, "val": fraction}, seed, together)
        except ValueError as error:
            raise ValueError(
                f"{path}: no validation images, and {error}; give validation images of your own"
            ) from error
        for name, part in parts.items():
            write_json(part, folder / f"{name}.json")
        counts = [len(parts[name]["images"]) for name in ("val", "train")]
        return {"files": ["train.json", "val.json"], "counts": counts, "together": len(together)}

    key = ["split", fingerprint([whole.annotations]), str(whole.images), fraction, seed]
    folder, note, _ = kept(cache, key, make)
    for name in ("train", "val"):
        found.parts[name] = Part(whole.images, folder / f"{name}.json")
    val, train = note["counts"]
    reason = "there are test images, but no validation images" if "test" in found.parts else "no validation images"
    found.lines += [
        f"{reason}: {plural(val, 'image')} of {val + train} for training set aside for validation (seed {seed}, "
        "stratified by class)",
        f"  in {shown(folder, None)}; choose with --val-fraction, or make a lasting split with rcnn split",
    ]
    if note["together"]:
        found.lines.append(together_line(note["together"]))


def read_annotations(path: Path) -> dict[str, Any]:
    """Return the whole content of a COCO file, as it is.

    Raises:
        ValueError: no JSON, or not in COCO's form.
    """
    content: dict[str, Any] = read_json(path, nonfinite=True)
    lists_of(content, path)
    return content


def together_line(count: int) -> str:
    """Say how many images :func:`marks` keeps together."""
    return f"{count} images stay together with their copies, versions or frames of the same video"  # two at least


def marks(coco: Mapping[str, Any], folder: Path) -> dict[Any, Hashable]:
    """Return a mark for images that must not be torn apart, by image id: those that another image shares it with.

    Such are frames of one video (``video_id``), versions of one image that Roboflow made (``name.rf.hash.jpg``), and
    files of the same bytes.

    Args:
        folder: of the images.
    """
    root: dict[Hashable, Hashable] = {}

    def first(one: Hashable) -> Hashable:
        while (other := root.get(one, one)) != one:
            root[one] = root.get(other, other)
            one = other
        return one

    owners: dict[Hashable, list[Hashable]] = defaultdict(list)
    files: dict[Path, Hashable] = {}
    for image in coco["images"]:
        key, name = identity(image.get("id")), image.get("file_name")
        if (video := identity(image.get("video_id"))) is not None:
            owners["video", video].append(key)
        if not isinstance(name, str):
            continue
        if ".rf." in name:
            owners["version", name.partition(".rf.")[0]].append(key)
        if (path := image_path(folder, name)) is not None:
            files[path] = key
    for number, same in enumerate(_copies(list(files))):
        owners["copy", number] += [files[path] for path in same]
    for several in owners.values():
        for other in several[1:]:
            root[first(other)] = first(several[0])
    keys = {key for several in owners.values() if len(several) > 1 for key in several}
    return {key: str(first(key)) for key in keys}


def _copies(paths: list[Path]) -> list[list[Path]]:
    """Files of the same bytes. Only those of one size are opened, and of these only those that begin alike are read."""
    found: list[list[Path]] = [paths]
    for mark in (_size, _begin, _digest):
        finer: list[list[Path]] = []
        for several in found:
            by_mark: dict[Hashable, list[Path]] = defaultdict(list)
            for path in several:
                try:
                    by_mark[mark(path)].append(path)
                except OSError:  # reading it for training will say so
                    continue
            finer += [same for same in by_mark.values() if len(same) > 1]
        found = finer
    return found


def _size(path: Path) -> int:
    return os.stat(path).st_size


def _begin(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
