"""List the shipped configs, and read a config with all its parts.

A config is a YAML file of settings. Its key ``parts`` lists other configs; the config overrides their settings. The
file ``configs/names.yaml`` names combinations of parts, such as ``mask_rcnn_r101_fpn_3x_coco``.
"""

import fnmatch
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from detection.documents import LARGEST_YAML, DocumentError, parse_yaml, read_text
from detection.engine.hints import nearest_config
from detection.engine.setting_names import needs_settings
from detection.foreign import shown
from detection.home import with_home

NAMES = "names.yaml"
"""File of the shipped configs that names combinations of parts."""

GROUPS = ("model", "data", "trainer", "run")
"""Top-level keys of a config that group its settings."""

DEEPEST = 8
"""Maximum depth of nested parts; the shipped configs need 3."""


@dataclass(frozen=True)
class ConfigInfo:
    """Name, title, parts and published AP of a config, without its settings."""

    name: str
    """Name for ``rcnn train`` and ``--config``; for a file, its name without ``.yaml``."""
    title: str
    """First comment of the file; empty for a combination in ``names.yaml``."""
    parts: tuple[str, ...] = ()
    """Configs that it combines; each overrides the earlier ones."""
    box_ap: float | None = None
    """Box AP on COCO val2017 that ``source`` published for this recipe, in percent. This toolkit did not measure it."""
    mask_ap: float | None = None
    """Mask AP on COCO val2017 that ``source`` published, in percent."""
    keypoint_ap: float | None = None
    """Keypoint AP on COCO val2017 that ``source`` published, in percent."""
    source: str | None = None
    """Publisher of the AP, and name of the recipe there."""
    pq: float | None = None
    """Panoptic quality on COCO val2017 that ``source`` published, in percent."""


@dataclass(frozen=True)
class Config:
    """A config with the settings of all its parts."""

    info: ConfigInfo
    settings: dict[str, Any]
    files: tuple[Path, ...]
    """Absolute paths of the files with the settings; later files override earlier ones."""

    @property
    def is_one_file(self) -> bool:
        """Whether the config is a single file that contains only settings."""
        return not self.info.parts and self.info.source is None


@dataclass(frozen=True)
class _Place:
    """Location of a config: a file, or an entry of ``names.yaml``."""

    name: str
    file: Path
    entry: Any = field(default=None, compare=False)

    def content(self) -> dict[str, Any]:
        """Read the settings, with the keys ``parts`` and ``published``."""
        if self.entry is None:
            return _read_mapping(self.file)
        return _mapping(self.entry, f"{self.file}: {self.name}")


def list_configs(pattern: str = "*") -> list[ConfigInfo]:
    """List the shipped configs: their names, their parts and the AP that others published for them.

    Args:
        pattern: pattern of the names, with ``*`` and ``?``.

    Example:
        >>> list_configs("mask_rcnn_r50_*")[1].name
        'mask_rcnn_r50_fpn_3x_coco'
        >>> list_configs("mask_rcnn_r50_fpn_1x_coco")[0].box_ap
        38.2
    """
    known = _shipped()
    return [_info(known[name], known[name].content()) for name in sorted(fnmatch.filter(known, pattern))]


def names_of_configs() -> list[str]:
    """Return the names of the shipped configs."""
    return sorted(_shipped())


def read_config(name: str | Path) -> Config:
    """Read a config, and combine it with its parts.

    Args:
        name: path of a file, or name of a shipped config with or without ``.yaml``.

    Raises:
        FileNotFoundError: the config does not exist; the message suggests the most similar name.
        DocumentError: the file is not a valid config.

    Example:
        >>> read_config("mask_rcnn_r101_fpn_3x_coco").settings["model"]["schedule"]["length"]
        270000
    """
    return _read(_find(str(name)), ())


def load_yaml(text: str) -> Any:
    """Read YAML with jsonargparse's types, after :func:`detection.documents.parse_yaml` has checked it.

    Raises:
        DocumentError: the text is not YAML, repeats a key in a mapping, or fails another check.
    """
    return _load(text, "the settings")


def write_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as YAML, which :func:`load_yaml` reads as the same settings."""
    return yaml.safe_dump(dict(settings), sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def combine(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others over them: combine mappings key by key, and replace all other values.

    Also replace a mapping with another ``class_path``, since the arguments of one class do not fit another.

    Example:
        >>> combine({"data": {"flip": 0.5, "short_side": 800}}, {"data": {"short_side": [640, 800]}})
        {'data': {'flip': 0.5, 'short_side': [640, 800]}}
    """
    combined = dict(settings)
    for key, value in over.items():
        before = combined.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and not _is_other_class(before, value):
            combined[key] = combine(before, value)
        else:
            combined[key] = value
    return combined


def _is_other_class(before: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return "class_path" in value and value["class_path"] != before.get("class_path")


def _folders() -> list[Path]:
    """Return the folders of the shipped configs: in the installed package, or beside the package in a checkout."""
    spec = importlib.util.find_spec("detection.configs")
    if spec is not None and spec.submodule_search_locations:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(__file__).resolve().parents[2] / "configs"]


@cache
def _shipped() -> dict[str, _Place]:
    """Return the shipped configs by name, such as ``mask_rcnn_r50_fpn_1x_coco`` or ``schedules/3x``."""
    found = {}
    for folder in _folders():
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if path != folder / NAMES:
                found[name] = _Place(name, path)
        names = _read_mapping(folder / NAMES)
        found |= {name: _Place(name, folder / NAMES, entry) for name, entry in names.items()}
    return found


def _find(name: str, beside: Path | None = None) -> _Place:
    """Find a config by its file or its name.

    Args:
        name: path of a file, or name of a shipped config.
        beside: file of the config that lists it as a part; a relative path begins at its folder.

    Raises:
        FileNotFoundError: the config does not exist; the message suggests the most similar name.
    """
    given = with_home(name)
    path = Path(given) if beside is None else beside.parent / given
    if path.is_file():
        return _Place(path.stem, path)
    known = _shipped()
    for key in _meant(given):
        if key in known:
            return known[key]
    start = "" if beside is None else f"{beside}: "
    if "://" in name:
        raise FileNotFoundError(f"{start}--config {name}: is a URL; download the file, and give its path")
    hint = nearest_config(_meant(given)[0], list(known)) or "; `rcnn configs list` prints all names"
    raise FileNotFoundError(f"{start}no config {shown(name, 200)}{hint}")


def _meant(given: str) -> list[str]:
    """Return the names that a text may mean: itself, and the name of a path in the folder of the shipped configs."""
    names = [given.removeprefix("configs/")]
    for folder in _folders():
        with suppress(ValueError, OSError):
            names.append(Path(given).resolve().relative_to(folder.resolve()).as_posix())
    return [name.removesuffix(".yaml") for name in names]


def _read(place: _Place, inside: tuple[_Place, ...]) -> Config:
    """Read a config and its parts.

    Args:
        place: location of the config.
        inside: configs of which it is a part, the outermost first.
    """
    if place in inside:
        raise DocumentError(f"{place.file}: config {place.name} is a part of itself; remove it from `parts`")
    if len(inside) > DEEPEST:
        raise DocumentError(f"{place.file}: parts are nested more than {DEEPEST} deep; list them in one config")
    content = place.content()
    for group in _empty_groups(content):  # it would replace the settings of the parts by None
        raise DocumentError(f"{place.file}: {group}: has no settings; indent some below it, or remove the line")
    settings: dict[str, Any] = {}
    files: list[Path] = []
    for name in _parts(place, content):
        part = _read(_find(name, place.file), (*inside, place))
        settings = combine(settings, part.settings)
        files += part.files
    own = {key: value for key, value in content.items() if key not in ("parts", "published")}
    return Config(_info(place, content), combine(settings, own), (*files, place.file.absolute()))


def _empty_groups(content: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the names of groups that are null, though they need settings."""
    for key, value in content.items():
        name = f"{above}{key}"
        if value is None and (name in GROUPS or needs_settings(name)):
            yield name
        elif isinstance(value, Mapping) and name.partition(".")[0] in GROUPS:
            yield from _empty_groups(value, f"{name}.")


def _info(place: _Place, content: Mapping[str, Any]) -> ConfigInfo:
    """Return the information about a config from its keys ``parts`` and ``published``."""
    first = "" if place.entry is not None else read_text(place.file, LARGEST_YAML).partition("\n")[0]
    title = first.lstrip("# ").strip() if first.startswith("#") else ""
    given = content.get("published")
    if given is None:
        return ConfigInfo(place.name, title, _parts(place, content))
    published = _mapping(given, f"{place.file}: published")
    keys = ("box_ap", "mask_ap", "keypoint_ap", "source", "pq")
    box, mask, keypoint, source, pq = (published.get(key) for key in keys)
    numbers = [value for value in (box, mask, keypoint, pq) if value is not None]
    if not isinstance(source, str) or not all(isinstance(value, int | float) for value in numbers):
        raise DocumentError(f"{place.file}: published: needs box_ap and mask_ap as numbers, and source as text")
    return ConfigInfo(place.name, title, _parts(place, content), box, mask, keypoint, source, pq)


def _parts(place: _Place, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in the key ``parts``."""
    parts = content.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DocumentError(f"{place.file}: parts: must be a list of configs, such as [base/mask_rcnn, schedules/3x]")
    return tuple(parts)


def _read_mapping(path: Path) -> dict[str, Any]:
    """Return the settings in a file; an empty dict for an empty file."""
    content = _load(read_text(path, LARGEST_YAML), str(path))
    return {} if content is None else _mapping(content, str(path))


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        found = shown(content, 40)
        raise DocumentError(f"{where}: must be a mapping of settings, such as `model: {{...}}`; found {found}")
    return content


def _load(text: str, where: str) -> Any:
    """Check YAML, then read it with jsonargparse's types."""
    parse_yaml(text, where)
    try:
        return get_loader("yaml")(text)
    except Exception as error:  # PyYAML raises many kinds of errors for a value that does not fit its tag
        raise DocumentError(f"{where}: not valid YAML ({shown(error, 120)})") from error
