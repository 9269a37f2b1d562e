"""Describe a classifier, or a network pretrained without labels, in plain values, and check such a description."""

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import torch

from backbones import is_known
from backbones.classifiers import Classifier, ClassifierConfig, Preprocessing
from backbones.simsiam import SimSiam
from detection import __version__
from detection.foreign import shown
from detection.plain import plain

FORMAT = 1
"""Version of the description."""
MOST_CLASSES = 1_000_000
LARGEST_SIDE = 8192


def describe_classifier(model: Classifier) -> dict[str, Any]:
    """Describe a classifier, without its weights, in plain values.

    Returns:
        ``classifier`` (its settings), ``num_classes``, ``names`` (by label, or None), ``multi_label``,
        ``preprocessing``, ``versions`` and ``format``.
    """
    described = {
        "classifier": asdict(replace(model.config, weights=None)),
        "num_classes": model.num_classes,
        "names": None if model.names is None else list(model.names),
        "multi_label": model.multi_label,
    }
    return _with_versions(described, model.preprocessing)


def describe_pretrained(model: SimSiam) -> dict[str, Any]:
    """Describe the network of a pretraining, without its weights, in plain values.

    Returns:
        ``network`` (its settings), ``method``, ``preprocessing``, ``versions`` and ``format``.
    """
    described = {"network": asdict(replace(model.config, weights=None)), "method": "simsiam"}
    return _with_versions(described, model.preprocessing)


def _with_versions(described: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """Add what the descriptions of all networks have."""
    versions = {"rcnn-toolkit": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
    whole = {"format": FORMAT, **described, "preprocessing": asdict(preprocessing), "versions": versions}
    return {key: plain(value, key) for key, value in whole.items()}


class Described(NamedTuple):
    """A checked description."""

    config: ClassifierConfig
    num_classes: int
    names: tuple[str, ...] | None
    preprocessing: Preprocessing
    multi_label: bool


def restored(info: Any, source: str) -> Described:
    """Check a description, and return its settings.

    Raises:
        ValueError: an entry is missing, or has a wrong type or value.
    """
    if not is_classifier(info):
        raise ValueError(f"{source}: is not a classifier of this toolkit; give the folder of a classifier's run")
    config, preprocessing = network_of(info, source)
    count, names = info.get("num_classes"), info.get("names")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_CLASSES:
        raise ValueError(f"{source}: its num_classes is {shown(count, 40)}; expected 1 to {MOST_CLASSES}")
    if names is not None and not (
        isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"{source}: its names must be a list of {count} texts")
    several = info.get("multi_label", False)
    if not isinstance(several, bool):
        raise ValueError(f"{source}: its multi_label is {shown(several, 40)}; expected true or false")
    return Described(config, count, None if names is None else tuple(names), preprocessing, several)


def network_of(info: Any, source: str) -> tuple[ClassifierConfig, Preprocessing]:
    """Check the description of a classifier or of a pretraining, and return the settings of its network.

    Raises:
        ValueError: an entry is missing, or has a wrong type or value.
    """
    key = "classifier" if is_classifier(info) else "network"
    if not (is_classifier(info) or is_pretrained(info)):
        raise ValueError(f"{source}: is no network of this toolkit; give the folder of a run")
    if info.get("format") != FORMAT:
        raise ValueError(f"{source}: has format {shown(info.get('format'), 20)}; this version reads {FORMAT}")
    config = _restored(ClassifierConfig, info[key], f"{source}: {key}")
    if not is_known(config.name):
        raise ValueError(f"{source}: names the unknown network {shown(config.name, 80)}; update the toolkit")
    preprocessing = _restored(Preprocessing, info.get("preprocessing"), f"{source}: preprocessing")
    if not 1 <= preprocessing.crop <= preprocessing.resize <= LARGEST_SIDE or not all(
        len(values) == 3 and all(math.isfinite(value) for value in values) and min(values) > least
        for values, least in ((preprocessing.mean, -math.inf), (preprocessing.std, 0))
    ):
        raise ValueError(f"{source}: its preprocessing has values out of range")
    if preprocessing.interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"{source}: its interpolation is {shown(preprocessing.interpolation, 40)}; use bilinear")
    return config, preprocessing


def is_classifier(info: Any) -> bool:
    """Return whether the entry ``rcnn`` of a file describes a classifier."""
    return isinstance(info, Mapping) and isinstance(info.get("classifier"), Mapping)


def is_pretrained(info: Any) -> bool:
    """Return whether the entry ``rcnn`` of a file describes a network that was pretrained without labels."""
    return isinstance(info, Mapping) and isinstance(info.get("network"), Mapping)


def _restored(kind: Any, values: Any, where: str) -> Any:
    """Return a config dataclass with values from a file, after a check of their names and types."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a {type(values).__name__}; expected a mapping of settings")
    known = {field.name: field.default for field in fields(kind)}
    found = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where} has an unknown setting {shown(name, 40)}; update the toolkit")
        default = known[name]
        value = tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value
        numbers = isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool)
        numbers = numbers or (name == "drop_path" and isinstance(value, float))
        if not (numbers or type(value) is type(default) or (name == "weights" and value is None)):
            raise ValueError(f"{where}.{shown(name, 40)} is {shown(value, 40)}; expected a {type(default).__name__}")
        if isinstance(default, tuple) and not all(isinstance(one, int | float) for one in value):
            raise ValueError(f"{where}.{name} must have numbers")
        found[name] = value
    return kind(**found)
