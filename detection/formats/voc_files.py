"""The XML files of a VOC data set, and the image of each."""

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
"""Bytes of an XML file: fifty thousand objects."""
LARGEST_LIST = 64 << 20

_ENCODINGS = {
    "ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb2312", "gbk", "gb18030", "big5", "cp950",
    "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949", "koi8-r", "koi8-u", *(f"cp125{k}" for k in range(9)),
    *(f"iso8859-{k}" for k in range(1, 17)),
}  # fmt: skip
"""Those that annotation tools write, as Python names them; a file may name others, which hide what they say."""


@dataclass(frozen=True)
class Annotated:
    """An XML file."""

    path: Path
    place: PurePosixPath
    """Below the folder of the XML files, without its suffix."""
    images: Path | None
    """The folder of the images, if it is known."""


def find_files(folder: Path, images: Path | None, split: str | None, account: Account) -> list[Annotated]:
    """The XML files below a folder, or those of a split.

    Args:
        folder: of XML files, or one with ``Annotations`` in it.
        images: the folder of the images; ``JPEGImages`` beside ``Annotations`` if None and there is one.
        split: a list in ``ImageSets/Main``.

    Raises:
        ValueError: no files, no such split, or one that lists what is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give that of the XML files")
    top = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    beside = next((top.parent / name for name in ("JPEGImages", "images") if (top.parent / name).is_dir()), None)
    images = images or (beside if top.name == "Annotations" else None)
    if images is not None and not images.is_dir():
        raise ValueError(f"{images}: no such folder; give that of the images with --images")
    lists = top.parent / "ImageSets" / "Main"
    if split is not None:
        paths = [top / f"{name}.xml" for name in _split(lists, split)]
        absent = [path for path in paths if not os.path.isfile(path)]
        if absent:
            raise ValueError(
                f"{lists / split}.txt: lists {plural(len(absent), 'image')} without XML, as {shown(absent[0], None)}"
            )
    else:
        paths = sorted(path for path in top.rglob("*") if path.suffix.lower() == ".xml" and path.is_file())
        names = sorted(path.stem for path in lists.glob("*.txt")) if lists.is_dir() else []
        if names:
            listed = ", ".join(shown(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
            account.notes.append(f"all XML files, of whatever split; --split takes one of {listed}")
    if not paths:
        raise ValueError(f"{folder}: has no XML files")
    return [Annotated(path, PurePosixPath(path.relative_to(top).with_suffix("").as_posix()), images) for path in paths]


def image_name(one: Annotated, filename: str, account: Account) -> str:
    """Where an image is below the image folder: in the folder of its XML file, and named as that.

    ``<filename>`` gives the suffix. Its name counts where the image of that name is there, and the other is not.
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
    """The root of an annotation.

    Raises:
        ValueError: too large, an unknown or a wrong encoding, a document type, no XML, or no annotation; with the path.
    """
    where = shown(path, None)
    text = _decoded(read_bytes(path, LARGEST), where)
    # Entities can stand for gigabytes or for other files; no annotation needs any.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{where}: declares a document type, which annotations do not; remove it")
    if "\0" in text:  # the parser would guess at UTF-16, and find what the line above has not
        raise ValueError(f"{where}: is no XML (it has zero bytes); save it as UTF-8")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{where}: is no XML ({shown(error, 100)})") from error
    if root.tag != "annotation":
        raise ValueError(f"{where}: begins with <{shown(root.tag)}>, not with <annotation>; is it VOC?")
    return root


def _decoded(data: bytes, where: str) -> str:
    """Text by its byte order mark, or else by the encoding that the file declares, or else UTF-8."""
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
        raise ValueError(f"{where}: is in the encoding {shown(name)}, which cannot be read here; save it as UTF-8")
    known = "gb18030" if known in ("gb2312", "gbk") else known  # which holds both, and what is often called so
    try:
        return data.decode(known)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: is not in {shown(name)}, as it should be ({error.reason}); save it as UTF-8"
        ) from error


def _split(lists: Path, split: str) -> list[str]:
    """Names in a list of ``ImageSets/Main``; of a class, those that have or may have it."""
    path = lists / f"{split}.txt"
    if PurePosixPath(slashed(split)).name != split or not os.path.isfile(path):
        there = ", ".join(shown(one.stem) for one in sorted(lists.glob("*.txt"))[:8]) or "no lists"
        raise ValueError(f"--split {shown(split)}: {lists} has {there}")
    names = []
    for k, line in enumerate(read_text(path, LARGEST_LIST).splitlines(), start=1):
        words = line.split()
        if not words or words[1:] == ["-1"]:
            continue
        name = PurePosixPath(slashed(words[0] if words[1:] in (["0"], ["1"]) else line.strip()))
        if name.suffix.lower() in SUFFIXES or name.suffix == ".xml":
            name = name.with_suffix("")
        if name.is_absolute() or ".." in name.parts or "\0" in str(name):
            raise ValueError(f"{path}, line {k}: {shown(line)!r} is not the name of an image")
        names.append(str(name))
    return _once(names, path)


def _once(names: Sequence[str], path: Path) -> list[str]:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: lists {shown(twice)} twice; remove one")
    return list(names)


def _among_images(place: PurePosixPath) -> PurePosixPath:
    """A place below several data sets, each with ``Annotations`` and ``JPEGImages``, among the images."""
    parts = ["JPEGImages" if part == "Annotations" else part for part in place.parts[:-1]]
    return PurePosixPath(*parts, place.name)
