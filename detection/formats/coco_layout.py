"""Find COCO annotation files in a folder, and the image folder of each.

This works for COCO as published, for exports of Roboflow, CVAT and Label Studio, and for a file beside or above its
images. The name of the file or of its folder gives the split. The image folder is the one that contains the images.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from detection.coco.read import lists_of
from detection.data.names import find_file, leads_out
from detection.documents import parse_json, read_json
from detection.foreign import shown
from detection.formats.layout import Found, Part, beside, files_in, folder_split, folders_in, split_folders, split_of

ANNOTATIONS = ("annotations", "annotation")
"""Names of folders that may contain annotation files."""

_HEAD = 1 << 20
"""Bytes to read at the start of a file, to recognise COCO's format and to get some file names."""
_MOST_FILES = 50
"""Number of files per folder to read, the largest first. A folder may contain one JSON file per image."""
_MOST_NAMES = 20
_OTHER_KINDS = ("captions_", "panoptic_", "image_info_")
_SPECIAL_KINDS = ("person_keypoints_", "stuff_")


@dataclass(frozen=True)
class CocoFile:
    """An annotation file."""

    path: Path
    split: str | None
    """The split in the name of the file or its folder; None if there is none."""
    rank: int
    """If a split has several files, the one with the lowest rank is used."""


def coco_files(folder: Path) -> list[CocoFile]:
    """Return the annotation files of a data set: in its folder, in ``annotations``, and in the folder of a split."""
    found = [CocoFile(path, split_of(path.stem), _rank(path)) for path in _in_form(folder)]
    for one in folders_in(folder):
        if one.name.lower() in ANNOTATIONS:
            found += [CocoFile(path, split_of(path.stem), _rank(path)) for path in _in_form(one)]
        elif (split := folder_split(one)) is not None:
            found += [CocoFile(path, split, _rank(path)) for path in _in_form(one)]
    return found


def coco_parts(folder: Path, files: Sequence[CocoFile]) -> Found:
    """Return the parts of a data set in COCO's format.

    If no file names a split, the only file contains the training images.

    Args:
        folder: the data set.
        files: from :func:`coco_files`.

    Raises:
        ValueError: a split has several files of the same rank.
    """
    chosen: dict[str, CocoFile] = {}
    for split in ("train", "val", "test", None):
        own = [one for one in files if one.split == split]
        if not own or (split is None and chosen):
            continue
        best = [one for one in own if one.rank == min(other.rank for other in own)]
        if len(best) > 1:
            listed = " and ".join(shown(beside(one.path, folder), None) for one in best[:3])
            kind = f"are for the {split} images" if split else "list images, and no name contains train or val"
            raise ValueError(f"{folder}: {listed} both {kind}; keep only one of them, or give the path of the file")
        chosen[split or "train"] = best[0]
    found = Found("COCO")
    for split, one in chosen.items():
        try:
            part = Part(image_folder(one.path, split), one.path)
        except ValueError as error:
            found.failed[split] = str(error)
            continue
        found.parts[split] = part
        place, images = (shown(beside(path, folder), None) for path in (part.annotations, part.images))
        found.lines.append(f"{split}: {place}, images in {images}")
    unread = [shown(beside(one.path, folder)) for one in files if one not in chosen.values()]
    if unread:
        more = f" and {len(unread) - 8} more" if len(unread) > 8 else ""
        found.lines.append(f"not read: {', '.join(unread[:8])}{more}")
    return found


def image_folder(path: Path, split: str | None = None) -> Path:
    """Return the folder that the file names in an annotation file are relative to.

    Args:
        path: annotation file.
        split: the split of the file, if known.

    Raises:
        ValueError: the file is not a COCO file, or no folder near it contains its images.
    """
    names = _some_names(path)
    if not names:
        raise ValueError(f"{path}: lists no images; add them to the list images")
    candidates = list(dict.fromkeys(_candidates(path, split)))
    if split is not None:  # the images of another split may have the same names
        candidates.sort(key=lambda folder: folder_split(folder) not in (None, split))
    found = {folder: sum(_exists(folder, name) for name in names) for folder in candidates}
    best = max(candidates, key=lambda folder: found[folder])  # if several are equal, the first
    if found[best]:
        return best
    for folder in candidates:  # perhaps the file names are spelled differently
        if find_file(folder, names[0])[0] is not None:
            return folder
    if leads_out(names[0]) and Path(names[0]).is_file():
        return path.parent  # the names point outside the folder, which data.allow_outside_root allows
    listed = ", ".join(shown(beside(folder, path.parent), None) for folder in candidates[:6])
    raise ValueError(
        f"{path}: image {shown(names[0])} is not in any folder near it ({listed}); put the images beside the file, "
        "or into a folder named images or like the split"
    )


def shared_images(parts: Mapping[str, Part]) -> list[str]:
    """Return a line for each pair of parts with common images; it compares only the start of each file."""
    paths = {split: {part.images / name for name in _names_in_head(part.annotations)} for split, part in parts.items()}
    lines = []
    for one, other in combinations(parts, 2):
        if both := paths[one] & paths[other]:
            lines.append(f"{one} and {other} share images, for example {shown(min(both).name)}")
    return lines


def in_coco_form(path: Path) -> bool:
    """Return whether the start of a file looks like COCO's format."""
    head = _head(path)
    return re.match(r"\s*\{", head) is not None and re.search(r'"(images|annotations)"\s*:\s*\[', head) is not None


def _in_form(folder: Path) -> Iterator[Path]:
    largest = sorted(files_in(folder, ".json"), key=lambda path: -path.stat().st_size)[:_MOST_FILES]
    return (path for path in sorted(largest) if not path.name.startswith(_OTHER_KINDS) and in_coco_form(path))


def _rank(path: Path) -> int:
    if path.name.startswith("instances"):
        return 0
    return (2 if path.name.startswith(_SPECIAL_KINDS) else 1) + ("trainval" in path.name)


def _candidates(path: Path, split: str | None) -> Iterator[Path]:
    """Yield the folders that may contain the images of a file, the most likely first."""
    above = path.parent.parent if path.parent.name.lower() in ANNOTATIONS else path.parent
    yield path.parent
    tail = re.sub(r"^(instances|person_keypoints|stuff)_", "", path.stem)
    for folder in (above, above / "images", above / "data"):
        if folder.is_dir():
            there = [folder / tail, *([split_folders(folder)[split]] if split in split_folders(folder) else [])]
            yield from (one for one in there if one.is_dir())
            yield from (one / "images" for one in there if (one / "images").is_dir())
    for folder in (above / "images", above, *folders_in(above)):
        if folder.is_dir():
            yield folder
            yield from folders_in(folder)[:100]


def _exists(folder: Path, name: str) -> bool:
    try:
        return not leads_out(name) and (folder / name).is_file()
    except (OSError, ValueError):  # the name is too long or contains a zero byte
        return False


def _head(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def _some_names(path: Path) -> list[str]:
    """Return some file names, if possible from the start of the file: reading a large file takes a minute."""
    names = _names_in_head(path)
    if not names:
        images = lists_of(read_json(path, nonfinite=True), path)["images"]
        if images and not any(image.get("file_name") for image in images):
            lvis = " (an LVIS file?); convert it with rcnn convert --from lvis" if "coco_url" in images[0] else ""
            raise ValueError(f"{path}: no image has a file_name{lvis or '; add it to each image'}")
        names = [str(image.get("file_name")) for image in images]
    return names[:: max(1, len(names) // _MOST_NAMES)][:_MOST_NAMES]


def _names_in_head(path: Path) -> list[str]:
    """Return the file names at the start of a file; an empty list if the file is broken there."""
    found = re.findall(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', _head(path))
    try:
        return [str(parse_json(name.encode(), path)) for name in found]
    except ValueError:
        return []
