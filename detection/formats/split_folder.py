"""Write and read the data sets of ``rcnn split``: one annotation file per split.

``rcnn split`` does not copy or link images. ``rcnn_data.json`` contains the path of each split's image folder.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.coco.ids import identity
from detection.documents import read_json
from detection.foreign import shown
from detection.formats.kept import write_json
from detection.formats.layout import SPLITS, Found, Part
from detection.formats.set_aside import marks, read_annotations, together_line
from detection.formats.split import split
from detection.home import with_home
from detection.wording import plural

SPLIT_FILE = "rcnn_data.json"
_MOST_NAMES = 8


def read_split(folder: Path) -> Found:
    """Return a data set that :func:`write_split` wrote.

    Raises:
        ValueError: ``rcnn_data.json`` is damaged.
    """
    path = folder / SPLIT_FILE
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, dict) or not images or not all(isinstance(one, str) for one in images.values()):
        raise ValueError(f"{path}: has no image folder for each split; create it again with rcnn split")
    found = Found("COCO")
    for name in (one for one in SPLITS if one in images):
        part = Part(Path(os.path.normpath(folder / with_home(images[name]))), folder / _file(name))
        absent = [one for one in (part.images, part.annotations) if not one.exists()]
        if absent:
            found.failed[name] = (
                f"{path}: {name} needs {absent[0]}, which does not exist; create the split again with rcnn split"
            )
            continue
        found.parts[name] = part
        found.lines.append(f"{name}: {_file(name)}, images in {shown(part.images, None)}")
    return found


def write_split(
    parts: Mapping[str, Part],
    folder: Path,
    fractions: Mapping[str, float],
    seed: int = 0,
    merge: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Split the training images of a data set, or all its images, and write the annotation files.

    Args:
        parts: the splits of the data set.
        folder: output folder; the function creates it.
        fractions: fractions of the images for ``val`` and ``test``; the rest is for training. If a fraction is 0 and
            the data set has this split, the function writes it unchanged.
        seed: seed of the split.
        merge: merge all images, including ``val`` and ``test``, and split them again.
        overwrite: replace an existing split in the folder.

    Returns:
        Lines that report what was written.

    Raises:
        ValueError: the fractions leave no training images, the data set already has a split to be created, files
            exist already, or the annotations cannot be split.
    """
    if not all(0 <= one < 1 for one in fractions.values()) or not 0 < sum(fractions.values()) < 1:
        given = ", ".join(f"--{name} {one:g}" for name, one in fractions.items())
        raise ValueError(f"{given}: give fractions from 0 to 1 whose sum is between 0 and 1; the rest is for training")
    asked = {name for name, fraction in fractions.items() if fraction > 0}
    twice = [name for name in parts if name in asked]
    if twice and not merge:
        raise ValueError(
            f"the data set already has {' and '.join(twice)} images; add --merge to split all images again, or "
            f"{' '.join(f'--{name} 0' for name in twice)} to keep them"
        )
    _check_free(folder, parts, overwrite)
    content, images = _merged(parts) if merge else (read_annotations(parts["train"].annotations), parts["train"].images)
    together = marks(content, images)
    whole = {"train": 1 - sum(fractions.values()), **fractions}
    made = split(content, whole, seed, together)
    places = dict.fromkeys(made, images)
    for name in (one for one in SPLITS if one in parts and one not in made and not merge):
        made[name], places[name] = read_annotations(parts[name].annotations), parts[name].images
    _write(made, places, folder)
    lines = [_line(name, made[name]) for name in SPLITS if name in made]
    lines += [together_line(len(together))] if together else []
    return lines + _missing(content, made)


def _check_free(folder: Path, parts: Mapping[str, Part], overwrite: bool) -> None:
    """Check that writing the split replaces no other files."""
    there = [path for path in (folder / SPLIT_FILE, *(folder / _file(name) for name in SPLITS)) if path.exists()]
    inputs = {os.path.realpath(part.annotations) for part in parts.values()}
    for path in there:
        if os.path.realpath(path) in inputs:
            raise ValueError(f"{path}: belongs to the data set that you split; give another --output")
        if not (folder / SPLIT_FILE).exists():
            raise ValueError(f"{path}: exists already, and rcnn split did not write it; give another --output")
        if not overwrite:
            raise ValueError(f"{path}: exists already; give another --output, or --overwrite to replace this split")


def _merged(parts: Mapping[str, Part]) -> tuple[dict[str, Any], Path]:
    """Merge all parts into one, with new IDs; file names are relative to the returned folder."""
    folder = Path(os.path.commonpath([part.images for part in parts.values()]))
    whole: dict[str, Any] = {"images": [], "annotations": []}
    for name, part in parts.items():
        content = read_annotations(part.annotations)
        categories = [{**one, "id": identity(one.get("id"))} for one in content["categories"]]
        known = whole.setdefault("categories", categories)
        if {one["id"]: one.get("name") for one in known} != {one["id"]: one.get("name") for one in categories}:
            first = next(iter(parts))
            raise ValueError(f"{first} and {name} have different categories; give both files the same list")
        prefix = part.images.relative_to(folder).as_posix()
        number = {}
        for image in content["images"]:
            number[identity(image.get("id"))] = len(whole["images"]) + 1
            inside = image.get("file_name")
            inside = inside if prefix == "." or not isinstance(inside, str) else f"{prefix}/{inside}"
            whole["images"].append({**image, "id": len(whole["images"]) + 1, "file_name": inside})
        for entry in content["annotations"]:
            # An unknown image ID becomes -1, so that the reader reports it.
            image_id = number.get(identity(entry.get("image_id")), -1)
            whole["annotations"].append({**entry, "id": len(whole["annotations"]) + 1, "image_id": image_id})
    return whole, folder


def _write(made: Mapping[str, Mapping[str, Any]], places: Mapping[str, Path], folder: Path) -> None:
    """Write the files; write ``rcnn_data.json`` last, because it marks the data set as complete."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / SPLIT_FILE).unlink(missing_ok=True)
    for name in SPLITS:
        (folder / _file(name)).unlink(missing_ok=True)
    for name, content in made.items():
        write_json(content, folder / _file(name))
    write_json({"images": {name: _place(path, folder) for name, path in places.items()}}, folder / SPLIT_FILE)


def _place(images: Path, folder: Path) -> str:
    """Return the image folder for the file: relative if it is near the split, so that both can move together."""
    images, folder = images.absolute(), folder.absolute()
    near = images.is_relative_to(folder.parent) and folder.parent != Path(folder.anchor)
    return Path(os.path.relpath(images, folder)).as_posix() if near else str(images)


def _file(name: str) -> str:
    return f"annotations/instances_{name}.json"


def _line(name: str, content: Mapping[str, Any]) -> str:
    used = {identity(one.get("category_id")) for one in content["annotations"]}
    images, objects = plural(len(content["images"]), "image"), plural(len(content["annotations"]), "object")
    return f"{name}: {images}, {objects} of {plural(len(used), 'class')}"


def _missing(content: Mapping[str, Any], made: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each part in which classes have no object."""
    pairs = {(identity(one.get("image_id")), identity(one.get("category_id"))) for one in content["annotations"]}
    images = Counter(category for _, category in pairs)
    names = {identity(one.get("id")): shown(one.get("name")) for one in content["categories"]}
    lines = []
    for part in made:
        there = {identity(one.get("category_id")) for one in made[part]["annotations"]}
        absent = [key for key in names if images[key] and key not in there]
        if absent:
            listed = ", ".join(f"{names[key]} ({images[key]})" for key in absent[:_MOST_NAMES])
            more = f" and {len(absent) - _MOST_NAMES} more" if len(absent) > _MOST_NAMES else ""
            lines.append(
                f"{part} has no object of {plural(len(absent), 'class')} (images that have one): {listed}{more}"
            )
    return lines
