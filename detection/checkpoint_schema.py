"""Check types, ranges and names in a checkpoint's ``rcnn`` entry before anything is built from it.

Everything in a file is data. The toolkit imports a backbone class that a file names only if the caller trusts the file.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from backbones import BackboneConfig, is_known
from detection.categories import Categories, Skeleton
from detection.coco.keypoints import MOST_KEYPOINTS, is_edge
from detection.foreign import shown
from detection.models.box_head import BoxHeadConfig
from detection.models.cascade import CascadeConfig
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.point_head import PointHeadConfig
from detection.models.retinanet import RetinaNetConfig
from detection.models.rpn import RPNConfig
from detection.models.semantic_head import SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig
from detection.models.thresholds import Thresholds
from detection.structures import Depth, ResizeMethod
from detection.wording import plural

FORMAT = 1
"""Version of the format; it increases if older versions of the toolkit cannot read the file."""
PARTS = {
    "backbone": BackboneConfig,
    "fpn": FPNConfig,
    "rpn": RPNConfig,
    "box_head": BoxHeadConfig,
    "mask_head": MaskHeadConfig,
    "retinanet": RetinaNetConfig,
    "fcos": FCOSConfig,
    "cascade": CascadeConfig,
    "task_aligned": TaskAlignedConfig,
    "semantic_head": SemanticHeadConfig,
    "keypoint_head": KeypointHeadConfig,
    "point_head": PointHeadConfig,
}
"""Arguments of :func:`~detection.models.build.build_detector`, and their classes."""
ONE_STAGE = ("retinanet", "fcos", "task_aligned")
"""Parts of one-stage detectors, which replace those of two-stage detectors."""
OPTIONAL = (*ONE_STAGE, "cascade", "semantic_head", "keypoint_head", "point_head")
"""Parts that files do not name if the detector lacks them, so that earlier versions can read these files."""
TWO_STAGE = ("rpn", "box_head")
"""Parts that every two-stage detector has."""
ENTRIES = ("format", "model", "num_classes", "categories", "preprocessing")
"""Entries that every checkpoint has; ``versions`` and ``thresholds`` may be absent."""
LARGEST = 1_000_000
"""Largest integer in the settings."""
SMALLER = {"convs": 64, "fcs": 64, "layers": 64, "refinements": 64, "resolution": 128, "sampling_ratio": 64,
           "in_channels": 1024, "keypoints": MOST_KEYPOINTS}  # fmt: skip
"""Largest values of settings for which ``LARGEST`` would need hours or gigabytes."""


def check_info(info: Any, source: str | Path) -> None:
    """Check the ``rcnn`` entry of a checkpoint.

    Raises:
        ValueError: an entry is missing or unknown, or has a wrong type or range; the message is one line with
            ``source``.
    """
    if not isinstance(info, dict):
        raise ValueError(f"{source}: its entry rcnn is a {type(info).__name__}, not a mapping")
    number = info.get("format", FORMAT)
    if type(number) is int and number > FORMAT:
        versions = info.get("versions")
        version = versions.get("rcnn-toolkit") if isinstance(versions, dict) else None
        raise ValueError(f"{source}: written by a later version ({shown(version)}); update this one")
    lacking = [entry for entry in ENTRIES if entry not in info]
    if lacking:
        raise ValueError(f"{source}: its entry rcnn lacks {', '.join(lacking)}; write it with save_model")
    try:
        _check_keys("rcnn", info, (*ENTRIES, "versions", "thresholds"))
        check_value("rcnn.format", number, int, 1)
        check_value("rcnn.num_classes", info["num_classes"], int, 1)
        _check_versions(info.get("versions", {}))
        check_categories(info)
        _check_preprocessing(info["preprocessing"])
        _check_model(info["model"])
        if info.get("thresholds") is not None:
            restore_thresholds(info)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def check_categories(info: Mapping[str, Any]) -> None:
    """Check the names and IDs of the classes.

    Raises:
        ValueError: they are not lists, or their lengths differ from the detector's number of classes.
    """
    named, count = info["categories"], info["num_classes"]
    if named is None:
        return
    if not isinstance(named, dict) or named.keys() - {"skeletons"} != {"names", "ids"}:
        raise ValueError("rcnn.categories must be a mapping of names and ids")
    names, ids = named["names"], named["ids"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("rcnn.categories.names must be a list of strings")
    if not isinstance(ids, list) or not all(type(one) is str or _is_id(one) for one in ids):
        raise ValueError("rcnn.categories.ids must be a list of whole numbers")
    if not len(names) == len(ids) == count:
        raise ValueError(
            f"categories have {plural(len(names), 'name')} and {plural(len(ids), 'id')}, but the detector "
            f"{plural(count, 'class')}"
        )
    skeletons = named.get("skeletons", [])
    if not isinstance(skeletons, list) or len(skeletons) not in (0, count) or not all(map(_is_skeleton, skeletons)):
        raise ValueError("rcnn.categories.skeletons must have names of keypoints, and pairs of them, for each class")


def restore_categories(info: Mapping[str, Any]) -> Categories | None:
    """Return the classes in a checked ``rcnn`` entry; None if it names none."""
    named = info["categories"]
    if named is None:
        return None
    return Categories(
        tuple(named["names"]), tuple(named["ids"]), tuple(map(Skeleton.from_coco, named.get("skeletons", [])))
    )


def restore_thresholds(info: Mapping[str, Any]) -> Thresholds | None:
    """Return the score thresholds of an ``rcnn`` entry; None if it has none.

    Raises:
        ValueError: a value has a wrong type or range, or there is not one threshold for each class.
    """
    values = info.get("thresholds")
    if values is None:
        return None
    _check_config("rcnn.thresholds", values, Thresholds)
    lacking = [field.name for field in fields(Thresholds) if field.name not in values and field.default is MISSING]
    if lacking:
        raise ValueError(f"rcnn.thresholds lacks {', '.join(lacking)}")
    found: Thresholds = _restored(Thresholds, values)
    if len(found.scores) != info["num_classes"]:
        raise ValueError(f"rcnn.thresholds has {len(found.scores)} scores; it needs one for each class")
    return found


def restore_configs(info: Mapping[str, Any], source: str | Path, trust_code: bool | str = False) -> dict[str, Any]:
    """Return the arguments of ``build_detector`` from a checked ``rcnn`` entry, without initial backbone weights.

    Args:
        info: the ``rcnn`` entry.
        source: file of the entry, for messages.
        trust_code: True: import a custom backbone that the file names; a string: import only this path.

    Raises:
        ValueError: the file names a custom backbone, and the caller does not trust it.
    """
    configs = {part: _restored(PARTS[part], values) for part, values in info["model"].items() if values is not None}
    backbone = configs.setdefault("backbone", BackboneConfig())
    check_trusted(backbone.name, source, trust_code)
    return configs | {"backbone": type(backbone)(**{**vars(backbone), "weights": None})}


def check_trusted(name: str, source: str | Path, trust_code: bool | str) -> None:
    """Reject the import path of a custom backbone that comes only from a file.

    Raises:
        ValueError: the caller does not trust the path; the message says how to do so.
    """
    if not is_known(name) and trust_code is not True and trust_code != name:
        raise ValueError(
            f"{source}: its backbone {shown(name)} would run code of that name; if you trust it, name it yourself "
            "(--model.backbone.name) or pass --trust-code, in Python load_model(path, trust_code=True)"
        )


def check_value(name: str, value: Any, hint: Any, least: float = -math.inf) -> None:
    """Check one value against its type hint.

    Raises:
        ValueError: the type or range is wrong; the message names the expected type.
    """
    if not fits(value, hint, SMALLER.get(name.rsplit(".", 1)[-1], LARGEST)) or _below(value, least):
        wanted = str(getattr(hint, "__name__", hint)).replace("typing.", "").replace("collections.abc.", "")
        raise ValueError(f"{name} is {shown(value)}; expected {wanted[:80]} in range")


def fits(value: Any, hint: Any, largest: int = LARGEST) -> bool:
    """Return whether a plain value has a type; a list may replace a tuple, and numbers must not be too large.

    Args:
        value: value to check.
        hint: type hint of the setting.
        largest: largest integer; integers must not be negative. Floats must be at most 1e9 in magnitude.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if origin in (Union, types.UnionType):
        return any(fits(value, one, largest) for one in inner)
    if hint in (bool, str):
        return type(value) is hint
    if hint is int:
        return type(value) is int and 0 <= value <= largest
    if hint is float:
        return type(value) in (int, float) and abs(value) <= 1e9
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(value, list | tuple) or len(value) > 4096:
            return False
        several = inner[:1] * len(value) if len(inner) == 1 or inner[-1] is ... else inner
        return len(value) == len(several) and all(fits(v, one, largest) for v, one in zip(value, several, strict=True))
    return False


def _below(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and value < least


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**64


def _is_skeleton(value: Any) -> bool:
    """Return whether a value is what :meth:`detection.categories.Skeleton.to_coco` returns."""
    if not isinstance(value, dict) or value.keys() != {"keypoints", "skeleton"}:
        return False
    names, edges = value["keypoints"], value["skeleton"]
    if not isinstance(names, list) or len(names) > MOST_KEYPOINTS or not all(isinstance(name, str) for name in names):
        return False
    return isinstance(edges, list) and all(is_edge(edge, len(names)) for edge in edges)


def _check_keys(name: str, values: Any, known: Sequence[str]) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{name} is a {type(values).__name__}, not a mapping")
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ValueError(f"{name} has an unknown entry {shown(unknown[0])}; was it written by a later version?")


def _check_versions(versions: Any) -> None:
    if not isinstance(versions, dict) or not all(isinstance(v, str) for kv in versions.items() for v in kv):
        raise ValueError("rcnn.versions must be a mapping of names to strings")


def _check_preprocessing(values: Any) -> None:
    hints: dict[str, Any] = {"short_side": int, "long_side": int, "resize": ResizeMethod, "depth": Depth}
    _check_keys("rcnn.preprocessing", values, list(hints))
    for key, hint in hints.items():
        if key not in values and key in ("short_side", "long_side"):
            raise ValueError(f"rcnn.preprocessing lacks {key}")
        if key in values:
            check_value(f"rcnn.preprocessing.{key}", values[key], hint, 1)


def _check_model(model: Any) -> None:
    _check_keys("rcnn.model", model, list(PARTS))
    for part, values in model.items():
        if values is not None:
            _check_config(f"rcnn.model.{part}", values, PARTS[part])
        elif part not in may_be_absent(model):
            raise ValueError(f"rcnn.model.{part} is missing")


def may_be_absent(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts that a detector with these parts need not have."""
    heads = ("mask_head", *OPTIONAL)
    return heads if has_proposals(model) else (*heads, *TWO_STAGE)


def has_proposals(model: Mapping[str, Any]) -> bool:
    """Return whether a detector with these parts has the parts of two stages."""
    alone = model.get("semantic_head") is not None and model.get("mask_head") is None
    return not alone and all(model.get(part) is None for part in ONE_STAGE)


def _check_config(name: str, values: Any, kind: Any) -> None:
    """Check the values of a dataclass, including nested dataclasses."""
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    if isinstance(values, dict) and (unknown := [key for key in values if key not in known]):
        raise ValueError(f"unknown setting {shown(unknown[0])} of {kind.__name__}")
    _check_keys(name, values, known)
    for key, value in values.items():
        if is_dataclass(hints[key]):
            _check_config(f"{name}.{key}", value, hints[key])
        else:
            check_value(f"{name}.{key}", value, hints[key])


def _restored(kind: Any, values: Mapping[str, Any]) -> Any:
    """Build a dataclass, including nested dataclasses, from checked plain values."""
    hints = get_type_hints(kind)
    return kind(
        **{
            name: _restored(hints[name], value) if is_dataclass(hints[name]) else _frozen(value)
            for name, value in values.items()
        }
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list | tuple) else value
