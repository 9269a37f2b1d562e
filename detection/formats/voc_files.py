"""Find the XML files of a VOC data set, and the image of each."""

import codecs
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from detection.data.signatures import SUFFIXES
from detection.documents import read_bytes, read_text
from detection.foreign import shown
from detection.formats.account import Account
from detection.formats.places import slashed
from detection.wording import plural

LARGEST = 16 << 20
"""Largest XML file in bytes: fifty thousand objects."""
LARGEST_LIST = 64 << 20

_ENCODINGS = {
    "ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb2312", "gbk", "gb18030", "big5", "cp950",
    "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949", "koi8-r", "koi8-u", *(f"cp125{k}" for k in range(9)),
    *(f"iso8859-{k}" for k in range(1, 17)),
}  # fmt: skip
"""Python's names of the encodings that annotation tools write. Other encodings could hide the content from checks."""


@dataclass(frozen=True)
class Annotated:
    """An XML file."""

    path: Path
    place: PurePosixPath
    """Path relative to the folder of XML files, without the suffix."""
    images: Path | None
    """Image folder, if known."""


def find_files(folder: Path, images: Path | None, split: str | None, account: Account) -> list[Annotated]:
    """Return the XML files below a folder, or those of a split.

    Args:
        folder: folder of XML files, or a folder with ``Annotations`` in it.
        images: image folder. None takes ``JPEGImages`` beside ``Annotations``, if it exists.
        split: name of a list in ``ImageSets/Main``.
        account: gets a note about unused lists.

    Raises:
        ValueError: there are no files, the split does not exist, or it lists missing files.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folder of the XML files")
    top = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    beside = next((top.parent / name for name in ("JPEGImages", "images") if (top.parent / name).is_dir()), None)
    images = images or (beside if top.name == "Annotations" else None)
    if images is not None and not images.is_dir():
        raise ValueError(f"{images}: no such folder; give the image folder with --images")
    lists = top.parent / "ImageSets" / "Main"
    if split is not None:
        paths = [top / f"{name}.xml" for name in _split(lists, split)]
        absent = [path for path in paths if not os.path.isfile(path)]
        if absent:
            raise ValueError(
                f"{lists / split}.txt: lists {plural(len(absent), 'image')} without an XML file, the first is missing "
                f"at {shown(absent[0], None)}; add it or correct the list"
            )
    else:
        paths = sorted(path for path in top.rglob("*") if path.suffix.lower() == ".xml" and path.is_file())
        names = sorted(path.stem for path in lists.glob("*.txt")) if lists.is_dir() else []
        if names:
            listed = ", ".join(shown(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
            account.notes.append(f"all XML files, from all splits; to convert one split, give --split: {listed}")
    if not paths:
        raise ValueError(f"{folder}: contains no XML files; give the folder of the XML files")
    return [Annotated(path, PurePosixPath(path.relative_to(top).with_suffix("").as_posix()), images) for path in paths]


def image_name(one: Annotated, filename: str, account: Account) -> str:
    """Return the path of an image relative to the image folder: the name and subfolder of its XML file.

    ``<filename>`` gives the suffix. The function uses the name in ``<filename>`` only if that image exists and the
    other one does not.
    """
    given = PurePosixPath(slashed(filename)).name
    suffix = PurePosixPath(given).suffix
    suffix = suffix if suffix.lower() in SUFFIXES else ".jpg"
    place = _among_images(one.place)
    own = [place.with_name(place.name + ending) for ending in dict.fromkeys((suffix, ".jpg", ".png", ".jpeg"))]
    whole = PurePosixPath(slashed(filename))
    named = [place.with_name(given)] if given not in ("", ".", "..") else []
    named += [whole] if named and not whole.is_absolute() and ".." not in whole.parts else []
    found = own[0]
    if one.images is not None:
        found = next((name for name in [*own, *named] if os.path.isfile(one.images / name)), found)
        if not os.path.isfile(one.images / found):
            account.change(f"images that are not in {shown(one.images, None)} (named by the XML file)")
    if given != found.name:
        account.change("images named as their XML file, not as <filename> says")
    return found.as_posix()


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root element of an annotation.

    Raises:
        ValueError: the file is too large, has an unknown or wrong encoding, declares a document type, is not XML, or
            is not an annotation. The message begins with the path.
    """
    where = shown(path, None)
    text = _decoded(read_bytes(path, LARGEST), where)
    # Entities can expand to gigabytes or read other files; annotations do not need them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{where}: declares a document type, which annotations do not need; remove it")
    if "\0" in text:  # the parser would guess UTF-16, and could find entities that the check above missed
        raise ValueError(f"{where}: is not XML (it contains zero bytes); save it as UTF-8")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{where}: is not XML ({shown(error, 100)}); export it again") from error
    if root.tag != "annotation":
        raise ValueError(f"{where}: begins with <{shown(root.tag)}>, not with <annotation>; give VOC annotations")
    return root


def _decoded(data: bytes, where: str) -> str:
    """Decode by the byte order mark, or the declared encoding, or as UTF-8."""
    name = "utf-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        name = "utf-16"
    elif data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    elif declared := re.match(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""", data):
        name = declared[1].decode("ascii")
    try:
        known = codecs.lookup(name).name
    except LookupError:
        known = ""
    if known not in _ENCODINGS:
        raise ValueError(f"{where}: has the unsupported encoding {shown(name)}; save it as UTF-8")
    known = "gb18030" if known in ("gb2312", "gbk") else known  # a superset of both; files often declare the wrong one
    try:
        return data.decode(known)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: is not valid {shown(name)} ({error.reason}); save it as UTF-8") from error


def _split(lists: Path, split: str) -> list[str]:
    """Return the names in a list of ``ImageSets/Main``; in the list of a class, skip images without the class."""
    path = lists / f"{split}.txt"
    if PurePosixPath(slashed(split)).name != split or not os.path.isfile(path):
        there = ", ".join(shown(one.stem) for one in sorted(lists.glob("*.txt"))[:8]) or "no lists"
        raise ValueError(f"--split {shown(split)}: {lists} has {there}; give one of them")
    names = []
    for k, line in enumerate(read_text(path, LARGEST_LIST).splitlines(), start=1):
        words = line.split()
        if not words or words[1:] == ["-1"]:
            continue
        name = PurePosixPath(slashed(words[0] if words[1:] in (["0"], ["1"]) else line.strip()))
        if name.suffix.lower() in SUFFIXES or name.suffix == ".xml":
            name = name.with_suffix("")
        if name.is_absolute() or ".." in name.parts or "\0" in str(name):
            raise ValueError(f"{path}, line {k}: {shown(line)!r} is not the name of an image; correct it")
        names.append(str(name))
    return _once(names, path)


def _once(names: Sequence[str], path: Path) -> list[str]:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: lists {shown(twice)} twice; remove one")
    return list(names)


def _among_images(place: PurePosixPath) -> PurePosixPath:
    """Replace ``Annotations`` by ``JPEGImages`` in a path, for folders that contain several VOC data sets."""
    parts = ["JPEGImages" if part == "Annotations" else part for part in place.parts[:-1]]
    return PurePosixPath(*parts, place.name)
