"""Read a COCO annotation file as lists of entries, and check only its structure.

For a file of COCO's size this needs a fraction of the time and memory of ``json.load``. The reader parses annotations
in parts, and converts polygons to arrays immediately.
"""

from array import array
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from detection.documents import read_json
from detection.foreign import shown

LISTS = ("images", "annotations", "categories")


def read_coco(path: str | Path, optional: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Return the lists ``images``, ``annotations`` and ``categories`` of a file, each a list of dicts.

    A polygon that contains only numbers becomes an ``array("d")``. Any other polygon stays unchanged.

    Args:
        path: COCO JSON file.
        optional: names of lists that may be absent, as in COCO's ``image_info_test-dev2017.json``.

    Raises:
        ValueError: the file is missing, is not JSON, has a key twice in one entry, or is not in COCO's format. The
            message names the place.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such annotation file; check data.root and the annotations of the split")
    content = read_json(
        path, _entry, nonfinite=True, long_list="annotations"
    )  # NaN and Inf: later checks drop and count them
    return lists_of(content, path, optional)


def lists_of(content: Any, where: str | Path, optional: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
    """Return the three lists in the content of a COCO file, after a check of their structure.

    Args:
        content: parsed JSON.
        where: start of the error messages, such as the path.
        optional: names of lists that may be absent.

    Raises:
        ValueError: the content is not a JSON object, a list is missing, or an entry is not an object.
    """
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{where}: contains a {'list' if isinstance(content, list) else type(content).__name__}, but a COCO file "
            "is an object with the lists images, annotations and categories; convert it"
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
        return "add it: training and evaluation need annotations (only prediction works without them)"
    if content.get(key) is not None:
        return f"{key} is of type {type(content[key]).__name__}; write a list, or [] if there are none"
    return "add it: a COCO file has the lists images, annotations and categories"


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Convert the polygons of one JSON object to arrays."""
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
