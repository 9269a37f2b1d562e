"""The content of a COCO annotation file, as lists of entries, with nothing but its form checked.

A file of COCO's size is read in half the time and half the memory that ``json.load`` takes: polygons become arrays as
soon as they are read, and the garbage collector does not search a million dicts for what is not there.
"""

from array import array
from collections.abc import Collection
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
    content = read_json(path, _entry, nonfinite=True)  # boxes that are not finite are dropped and counted
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: a COCO file holds an object with images, annotations and categories, not a "
            f"{'list' if isinstance(content, list) else type(content).__name__}; wrap or convert it"
        )
    for key in LISTS:
        if content.get(key) is None and key in optional:
            content.pop(key, None)
            continue
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path}: has no list {key!r}; {_remedy(content, key)}")
        for k, entry in enumerate(content[key]):
            if type(entry) is not dict:
                raise ValueError(f"{path}: {key}[{k}] is {shown(entry)!r}, not an object; remove or correct it")
    return content


def _remedy(content: dict[str, Any], key: str) -> str:
    if key == "annotations" and content.get(key) is None and isinstance(content.get("images"), list):
        return "a file of images alone has nothing to learn from or to score against: only predict takes it"
    return "a COCO file has images, annotations and categories"


def identity(value: object) -> int | str | None:
    """An id as it is compared: 17, 17.0 and "17" are one; None for what is no id."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value:
        return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else value
    return None


def _entry(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One object of the file."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)!r} occurs twice in the object with id {shown(entry.get('id'))}")
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
