"""The content of a COCO annotation file, as lists of entries, with nothing but its form checked.

A file of COCO's size is read in a fraction of the time and memory that ``json.load`` takes: annotations are read in
pieces, and their polygons become arrays at once.
"""

from array import array
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from detection.documents import read_json
from detection.foreign import shown

LISTS = ("images", "annotations", "categories")


def read_coco(path: str | Path, optional: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """The lists ``images``, ``annotations`` and ``categories``, each of dicts.

    Polygons of numbers are ``array("d")``, others are as the file has them.

    Args:
        optional: names of lists that may be absent, as in COCO's ``image_info_test-dev2017.json``.

    Raises:
        ValueError: no file, not JSON, a key twice in one entry, or not in COCO's form; with the place.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such annotation file; check data.root and the annotations of the split")
    content = read_json(path, _entry, nonfinite=True, long_list="annotations")  # not finite: dropped and counted later
    return lists_of(content, path, optional)


def lists_of(content: Any, where: str | Path, optional: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """The three lists of what a COCO file holds, with their form checked.

    Args:
        where: begins the messages.

    Raises:
        ValueError: no object, no such list, or an entry that is no object.
    """
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{where}: a COCO file holds an object with images, annotations and categories, not a "
            f"{'list' if isinstance(content, list) else type(content).__name__}; wrap or convert it"
        )
    lists = {}
    for key in LISTS:
        entries = content.get(key)
        if entries is None and key in optional:
            continue
        if not isinstance(entries, list | tuple):
            raise ValueError(f"{where}: has no list {key!r}; {_remedy(content, key)}")
        for k, entry in enumerate(entries):
            if type(entry) is not dict and not isinstance(entry, Mapping):
                raise ValueError(f"{where}: {key}[{k}] is {shown(entry)!r}, not an object; remove or correct it")
        lists[key] = entries
    return lists  # type: ignore[return-value]


def _remedy(content: Mapping[str, Any], key: str) -> str:
    if key == "annotations" and content.get(key) is None and isinstance(content.get("images"), list):
        return "a file of images alone has nothing to learn from or to score against: only predict takes it"
    if content.get(key) is not None:
        return f"{key} is {type(content[key]).__name__}, but must be a list; [] if there are none"
    return "a COCO file has images, annotations and categories"


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """One object of the file."""
    polygons = entry.get("segmentation")
    if type(polygons) is list:
        entry["segmentation"] = [_packed(polygon) for polygon in polygons]
    return entry


def _packed(polygon: Any) -> Any:
    if type(polygon) is not list:
        return polygon
    try:
        return array("d", polygon)
    except (TypeError, OverflowError):
        return polygon
