"""Find the splits of a VOC data set, in ``ImageSets/Main`` or by the names of its folders.

This works for VOC as published, for folders of XML files and images, and for XML files beside the images, which
LabelImg and Roboflow write.
"""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from detection.documents import read_bytes
from detection.formats.account import Account
from detection.formats.layout import Unread, files_in, has_images, only_split_folders, split_folders
from detection.formats.voc import read_voc
from detection.formats.voc_files import LARGEST, find_files
from detection.wording import plural

IMAGES = ("JPEGImages", "images", "Images", "imgs")
ANNOTATIONS = ("Annotations", "annotations", "xmls", "labels")

_OWN = rb"<database>\s*The VOC\d{4} Database\s*</database>"


def voc_sign(folder: Path) -> str | None:
    """Return the path of a VOC annotation in a folder, relative to it; None if this is not a VOC data set."""
    for one in (folder, *split_folders(folder).values()):
        path = _first_xml(one)
        if path is not None and re.search(rb"<annotation[>\s]", _head(path)):
            return path.relative_to(folder).as_posix()
    return None


def voc_splits(folder: Path) -> tuple[dict[str, Unread], dict[str, str], list[str]]:
    """Find the splits of a VOC data set.

    Returns:
        The readable splits; for each other split the reason why it cannot be read; and lines for the user.

    Raises:
        ValueError: there are no images.
    """
    found: dict[str, Unread] = {}
    failed: dict[str, str] = {}
    lines = ["classes: all classes in the annotations, sorted by name"]
    listed: set[Path] = set()
    everything: set[Path] = set()
    for split, xml, images, name in _places(folder, lines):
        try:
            own = [one.path for one in find_files(xml, images, name, Account())]
        except ValueError as error:
            failed[split] = str(error)
            continue
        listed.update(own)
        if name is not None:
            everything.update(one.path for one in find_files(xml, images, None, Account()))
        one_based = re.search(_OWN, _head(own[0])) is not None
        if one_based:
            lines.append(f"{split}: coordinates count pixels from 1, as in the original VOC files")
        files = [*own, *(path for path in images.rglob("*") if path.is_file())]
        # The class list is computed later, when the classes of all splits are known.
        read = partial(read_voc, xml, one_based, (), images, name)
        found[split] = Unread(images, files, [one_based], read)
    if unlisted := len(everything - listed):
        lines.append(f"not read: {plural(unlisted, 'XML file')} that no list in ImageSets/Main contains")
    return found, failed, lines


def _places(folder: Path, lines: list[str]) -> Iterator[tuple[str, Path, Path, str | None]]:
    """Yield (split, folder of XML files, image folder, name of the split's list)."""
    xml = _xml_folder(folder)
    if xml is None:
        for split, one in only_split_folders(folder, lambda one: _xml_folder(one) is not None, lines).items():
            below = _xml_folder(one) or one
            yield split, below, _image_folder(below), None
        return
    images = _image_folder(xml)
    lists = {path.stem for path in files_in(xml.parent / "ImageSets" / "Main", ".txt")}
    given = {"train": "train" if "train" in lists else "trainval", "val": "val", "test": "test"}
    known = {split: name for split, name in given.items() if name in lists}
    several = only_split_folders(xml, lambda one: _xml_below(one) is not None, [] if known else lines)
    if known:
        yield from ((split, xml, images, name) for split, name in known.items())
    elif several and xml != folder:
        parts = split_folders(images)
        yield from ((split, one, parts.get(split, images), None) for split, one in several.items())
    else:
        yield "train", xml, images, None


def _xml_folder(folder: Path) -> Path | None:
    """Return the folder with the XML files of a data set: a subfolder with a known name, or the folder itself."""
    for one in (*(folder / name for name in ANNOTATIONS), folder / "annotations" / "xmls"):
        if one.is_dir() and _xml_below(one) is not None:
            return one
    return folder if files_in(folder, ".xml") else None


def _image_folder(xml: Path) -> Path:
    candidates = [above / name for above in (xml.parent, xml.parent.parent) for name in IMAGES] + [xml, xml.parent]
    for one in candidates:
        if one.is_dir() and has_images(one):
            return one
    raise ValueError(
        f"{xml}: has XML files, but no images beside them or in {xml.parent / IMAGES[0]}; put the images there"
    )


def _first_xml(folder: Path) -> Path | None:
    place = _xml_folder(folder)
    return None if place is None else _xml_below(place)


def _xml_below(folder: Path) -> Path | None:
    """Return the first XML file in or below a folder, or None."""
    for place, folders, _ in os.walk(folder):
        folders.sort()
        if found := files_in(Path(place), ".xml"):
            return found[0]
    return None


def _head(path: Path) -> bytes:
    return read_bytes(path, LARGEST)[:4096]
