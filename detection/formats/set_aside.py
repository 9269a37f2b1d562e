"""Create a validation split from training images, and keep copies of an image in the same split."""

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
    """Split the training images of a data set, and add a line that reports it; the files go into the cache.

    Args:
        found: the data set; the function replaces its ``train`` and adds ``val``.
        path: path of the data set, for messages.
        fraction: fraction of the images for validation.
        seed: seed of the split.
        cache: folder of the cache.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there are fewer than two images.
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
                f"{path}: has no validation images, and {error}; add validation images to the data set"
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
        f"{reason}: the toolkit validates on {val} of {plural(val + train, 'training image')} (seed {seed}, "
        "stratified by class)",
        f"  in {shown(folder, None)}; change it with --val-fraction, or create a permanent split with rcnn split",
    ]
    if note["together"]:
        found.lines.append(together_line(note["together"]))


def read_annotations(path: Path) -> dict[str, Any]:
    """Return the whole, unchanged content of a COCO file.

    Raises:
        ValueError: the file is not JSON, or not in COCO's format.
    """
    content: dict[str, Any] = read_json(path, nonfinite=True)
    lists_of(content, path)
    return content


def together_line(count: int) -> str:
    """Return the line that reports how many images :func:`marks` keeps together."""
    return f"{count} images stay in one split with their copies, versions or frames of the same video"  # at least two


def marks(coco: Mapping[str, Any], folder: Path) -> dict[Any, Hashable]:
    """Return a group mark for each image that must be in the same split as another image.

    These are frames of the same video (``video_id``), versions of an image by Roboflow (``name.rf.hash.jpg``), and
    files with identical bytes.

    Args:
        coco: content of a COCO file.
        folder: image folder.

    Returns:
        Marks by image ID. Images with the same mark belong together. Images without such a partner have no mark.
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
    """Return groups of identical files: compare sizes, then the first bytes of equal ones, then hash the rest."""
    found: list[list[Path]] = [paths]
    for mark in (_size, _begin, _digest):
        finer: list[list[Path]] = []
        for several in found:
            by_mark: dict[Hashable, list[Path]] = defaultdict(list)
            for path in several:
                try:
                    by_mark[mark(path)].append(path)
                except OSError:  # training reports it when it reads the file
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
