"""Read the files beside YOLO labels: class names, keypoints, and image folders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.documents import read_json, read_text, read_yaml
from detection.foreign import shown
from detection.wording import plural

LISTS = ("classes.txt", "obj.names", "_darknet.labels")
"""Files with one class name per line, written by labelImg, Label Studio, darknet and others."""
LARGEST_LIST = 4 << 20
MOST_KEYPOINTS = 10_000


@dataclass
class YoloSettings:
    """Settings of one YOLO data set."""

    names: list[str]
    """Class names, in the order of their numbers."""
    source: str
    """File or option that gave the names."""
    keypoints: tuple[int, int] | None = None
    """``kpt_shape``: keypoints per object, and numbers per keypoint: 2, or 3 with visibility."""
    keypoint_names: list[str] = field(default_factory=list)
    path: Path | None = None
    """Path of ``data.yaml``."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``data.yaml``."""


def find_settings(source: Path, names: Sequence[str] | None = None) -> YoloSettings:
    """Return the settings from a ``data.yaml``, or from the files in, beside or above a folder of labels.

    Args:
        source: folder of labels or of the data set, or a ``data.yaml``.
        names: class names to use instead of those in the files.

    Raises:
        ValueError: there are no names, or they are not numbered from 0 without gaps.
    """
    path, content = _data_yaml(source)
    settings = YoloSettings(list(names or ()), "--names", path=path, content=content)
    if content and path is not None:
        settings.keypoints = _kpt_shape(content, path)
        settings.keypoint_names = _keypoint_names(content, path, settings.keypoints)
        if not names and "names" in content:
            settings.names, settings.source = _names(content["names"], path), shown(path, None)
            _check_number(content, settings.names, path)
    if not settings.names:
        settings.names, settings.source = _listed(source)
    return settings


def is_list_of_names(path: Path) -> bool:
    """Return whether a text file among the labels is a list of class names."""
    return path.name in LISTS


def _folders(source: Path) -> Iterator[Path]:
    """Yield the folders that may contain settings."""
    below = source.parent if source.is_file() else source
    yield below
    if (below / "labels").is_dir():
        yield below / "labels"
    yield from below.absolute().parents[:2]


def _data_yaml(source: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the nearest ``data.yaml``, or else the nearest other YAML file with names."""
    if source.is_file():
        if source.suffix.lower() not in (".yaml", ".yml"):
            raise ValueError(f"{source}: is neither a folder of labels nor a data.yaml; give one of them")
        return source, _mapping(source)
    folders = list(_folders(source))
    for path in (folder / "data.yaml" for folder in folders):
        if path.is_file():
            return path, _mapping(path)
    for folder in folders[:-1]:  # a YAML file further up may belong to something else
        for path in sorted(folder.glob("*.y*ml")):
            try:
                content = _mapping(path)
            except ValueError:
                continue
            if "names" in content and ({"train", "val", "nc", "path"} & content.keys()):
                return path, content
    return None, {}


def _mapping(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is not a mapping; write names, train and val as in a YOLO data.yaml")
    return content


def _listed(source: Path) -> tuple[list[str], str]:
    """Return names from a file with one name per line, or from Label Studio's notes.json, and its path."""
    folders = list(_folders(source))
    for folder in folders:
        for path in [*(folder / name for name in LISTS), *sorted(folder.glob("*.names"))]:
            if path.is_file():
                return _from_lines(path), shown(path, None)
    for path in (folder / "notes.json" for folder in folders):
        if path.is_file() and (found := _from_notes(path)):
            return found, shown(path, None)
    raise ValueError(
        f"{source}: found no class names (no data.yaml with names, classes.txt, obj.names or notes.json in, beside or "
        "above it); write a classes.txt there with one name per line, or convert with --names"
    )


def _from_lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path, LARGEST_LIST).rstrip().split("\n")]
    if not all(lines):
        number = lines.index("") + 1
        raise ValueError(f"{path}, line {number}: is empty, which shifts the class numbers below it; remove the line")
    return lines


def _from_notes(path: Path) -> list[str]:
    """Return the names in Label Studio's notes.json; an empty list if it has no categories."""
    content = read_json(path)
    categories = content.get("categories") if isinstance(content, dict) else None
    if not categories:
        return []
    try:
        return _numbered({str(one["id"]): str(one["name"]) for one in categories}, path)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: categories is not a list of id and name; correct it") from error


def _names(names: Any, path: Path) -> list[str]:
    if isinstance(names, dict):
        found: list[Any] = _numbered(names, path)
    elif isinstance(names, list):
        found = names
    else:
        raise ValueError(f"{path}: names is {shown(names)!r}; write a list, or a mapping from number to name")
    for k, name in enumerate(found):
        if not isinstance(name, str) or not name:
            raise ValueError(f"{path}: name {k} is {shown(name)!r}, which is not a name; correct it")
    if not found:
        raise ValueError(f"{path}: names is empty; list the classes")
    return found


def _numbered(names: Mapping[str, Any], path: Path) -> list[Any]:
    """Return the names in the order of their numbers."""
    number = {}
    for key, name in names.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise ValueError(
                f"{path}: names has the key {shown(key)}, which is not a number; number the classes from 0"
            )
        number[int(key)] = name
    missing = sorted(set(range(len(names))) - number.keys())
    if missing:
        raise ValueError(
            f"{path}: names has {plural(len(names), 'class')} but no number {missing[0]}; number them from 0"
        )
    return [number[k] for k in range(len(names))]


def _check_number(content: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    if content.get("nc", str(len(names))) != str(len(names)):
        raise ValueError(f"{path}: nc is {shown(content['nc'])}, but names has {len(names)}; correct one of them")


def _kpt_shape(content: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    if "kpt_shape" not in content:
        return None
    given = content["kpt_shape"]
    good = isinstance(given, list) and len(given) == 2 and all(isinstance(v, str) and v.isdecimal() for v in given)
    if not good or given[1] not in ("2", "3") or len(given[0]) > 5 or not 0 < int(given[0]) <= MOST_KEYPOINTS:
        raise ValueError(f"{path}: kpt_shape is {shown(given)}; give [keypoints, 2] or [keypoints, 3]")
    return int(given[0]), int(given[1])


def _keypoint_names(content: Mapping[str, Any], path: Path, shape: tuple[int, int] | None) -> list[str]:
    """Return the keypoint names (of the first class, if given per class), or numbered names."""
    if shape is None:
        return []
    given = content.get("kpt_names", content.get("keypoints"))
    if isinstance(given, dict) and given:
        given = next(iter(given.values()))
    if not given:
        return [f"keypoint {k}" for k in range(shape[0])]
    if not isinstance(given, list) or len(given) != shape[0] or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{path}: kpt_names must have as many names as kpt_shape ({shape[0]}); correct one of them")
    return given
