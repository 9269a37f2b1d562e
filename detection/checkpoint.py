"""Checkpoints that suffice on their own, and load without running code.

A checkpoint is a dict of tensors and plain values. What Lightning needs to go on training lies beside two entries:
``state_dict`` (the detector's weights, their names prefixed by ``model.``) and ``rcnn`` (what is needed to rebuild
the detector and to read its answers: :func:`describe_model`). No class paths are stored, so renaming breaks no file.
"""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_type_hints

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from backbones import BackboneConfig, available
from backbones.pretrained import damaged_part, read_weights
from detection import __version__
from detection.data.errors import first_line
from detection.home import with_home
from detection.models.box_head import BoxHeadConfig
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rcnn import FasterRCNN, build_detector
from detection.models.roi_linear import as_linear
from detection.models.rpn import RPNConfig
from detection.structures import Categories

FORMAT = 1
"""Counts up when older versions could no longer read the file."""
PREFIX = "model."
COUNTER = "num_batches_tracked"
"""What a batch norm has and a frozen one lacks; with a momentum nothing depends on it."""
ALONE = "weights without the settings to build their detector from; write it with detection.checkpoint.save_model"
PARTS = {
    "backbone": BackboneConfig,
    "fpn": FPNConfig,
    "rpn": RPNConfig,
    "box_head": BoxHeadConfig,
    "mask_head": MaskHeadConfig,
}
"""The arguments of :func:`~detection.models.rcnn.build_detector` and their classes."""


def save_model(model: FasterRCNN, path: str | Path, configs: Mapping[str, Any] | None = None) -> None:
    """Write a detector that :func:`load_model` can rebuild.

    Args:
        configs: for a detector that was assembled by hand: the configs from which
            :func:`~detection.models.rcnn.build_detector` builds its like, by the names of the arguments; what is left
            out is at its default, and without ``mask_head`` there is none. Other detectors keep theirs.

    Raises:
        ValueError: as :func:`description`.
        OSError: as :func:`replacing`.

    Example:
        >>> save_model(build_detector(3, "resnet18"), "faster.ckpt")  # doctest: +SKIP
    """
    info = description(model, path, configs)
    state = {PREFIX + name: value for name, value in as_linear(model.state_dict()).items()}
    write_checkpoint({"state_dict": state, "rcnn": info}, path)


def load_model(path: str | Path) -> tuple[FasterRCNN, dict[str, Any]]:
    """Rebuild a detector from its checkpoint alone.

    Returns:
        model: on the CPU, in evaluation mode, with ``categories`` and ``test_size``.
        info: the checkpoint's ``rcnn`` entry; see :func:`describe_model`.

    Raises:
        ValueError: no such file, a broken one, or one that this toolkit has not written.
    """
    content = read_checkpoint(path)
    info = checked_info(content, path)
    configs = restore_configs(info, path)
    model = build_detector(info["num_classes"], **configs)
    if info["categories"] is not None:
        model.categories = Categories(tuple(info["categories"]["names"]), tuple(info["categories"]["ids"]))
    model.test_size = (info["preprocessing"]["short_side"], info["preprocessing"]["long_side"])
    model.resize = info["preprocessing"].get("resize", "opencv")
    model.depth = info["preprocessing"].get("depth", 8)
    load_weights(model, detector_weights(content["state_dict"]), str(path))
    return model.eval(), info


def description(model: FasterRCNN, path: str | Path, configs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What goes into a file beside a detector's weights, once it is sure that the file will load.

    Raises:
        ValueError: naming ``path``: not a detector; no configs, or not those it was built from; weights that are not
            finite; or what :func:`describe_model` refuses.
    """
    if not isinstance(model, FasterRCNN):
        raise ValueError(f"not written: a {type(model).__name__} is no detector; the detector itself comes first")
    try:
        info = describe_model(model, _own_configs(model, configs))
        check_rebuilt(model, info, path)
        for name, value in model.state_dict().items():
            if value.is_meta or not value.isfinite().all():
                raise ValueError(f"{name} has values that are not finite; take the weights of before")
    except ValueError as error:
        raise ValueError(f"{path}: not written: {error}") from error
    return info


def describe_model(model: FasterRCNN, configs: Mapping[str, Any]) -> dict[str, Any]:
    """What to know of a detector beside its weights, in plain values.

    ``model`` the configs by part, ``num_classes``, ``categories`` (``names`` and original ``ids`` by label, or None),
    ``preprocessing`` (``short_side``, ``long_side``, ``resize`` at test time, ``depth``), ``versions`` and ``format``.

    Raises:
        ValueError: values that are not plain; categories of another number than the detector's classes.
    """
    categories = model.categories
    if categories is not None and not isinstance(categories, Categories):
        raise ValueError(f"categories are a {type(categories).__name__}; give detection.structures.Categories")
    info: dict[str, Any] = {
        "format": FORMAT,
        "model": _plain_configs(configs),
        "num_classes": model.num_classes,
        "categories": categories and {"names": list(categories.names), "ids": list(categories.ids)},
        "preprocessing": {
            "short_side": model.test_size[0],
            "long_side": model.test_size[1],
            "resize": model.resize,
            "depth": model.depth,
        },
        "versions": {
            "rcnn-toolkit": __version__,
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "python": platform.python_version(),
        },
    }
    _check_categories(info)
    return {key: plain(value, key) for key, value in info.items()}


def check_rebuilt(model: FasterRCNN, info: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a description from which another model would be built than the one to be written.

    Raises:
        ValueError: with what differs.
    """
    configs = restore_configs(info, path)
    if configs["backbone"].name not in available():
        return  # others may do anything when they are built
    try:
        with torch.device("meta"):
            check_weights(build_detector(model.num_classes, **configs), model.state_dict(), "the model")
    except ValueError as error:
        raise ValueError(f"configs are not those that it was built from: {error}") from error


def _own_configs(model: FasterRCNN, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The configs that a detector keeps, or those given for one that keeps none."""
    if model.configs is None:
        if given is None:
            raise ValueError("this detector was not made by build_detector, so its configs must be given")
        return given
    if given is not None:
        ours, theirs = _plain_configs(model.configs), _plain_configs(given)
        theirs["backbone"]["weights"] = ours["backbone"]["weights"]  # where it started from makes no other detector
        differing = [part for part in PARTS if ours[part] != theirs[part]]
        if differing:
            raise ValueError(f"configs are not those that it was built from: {differing[0]} differs; leave them out")
    return model.configs


def _plain_configs(configs: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting by part, as plain values; None for a mask head that there is not."""
    unknown = configs.keys() - PARTS.keys()
    if unknown:
        raise ValueError(f"configs of {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    parts = {name: configs.get(name) for name in PARTS}
    for name, part in parts.items():
        if part is None and name != "mask_head":
            parts[name] = PARTS[name]()
        elif part is not None and not isinstance(part, PARTS[name]):
            raise ValueError(f"configs of {name} are a {type(part).__name__}, not a {PARTS[name].__name__}")
    return {name: None if part is None else plain(asdict(part), f"model.{name}") for name, part in parts.items()}


def restore_configs(info: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The arguments of ``build_detector`` out of a checkpoint's ``rcnn`` entry; without weights to start from."""
    configs = {name: _restore(PARTS[name], values, source) for name, values in info["model"].items() if values}
    backbone = configs["backbone"]
    return configs | {"backbone": type(backbone)(**{**vars(backbone), "weights": None})}


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a file that is, whatever happens, either the old one or the new one, and complete.

    Raises:
        OSError: as :func:`replacing`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    with replacing(path) as file:
        torch.save(dict(content), file)
    if os.name == "posix":  # the new name itself must reach the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when it is complete and on the disk.

    It lies beside its place, since a move from another file system is a copy that can be cut off.

    Raises:
        OSError: the disk is full, there is no such folder, ...; in a line, with the path and the system's reason.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        # torch.save closes its archive after a failed write, and that error hides the system's.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        kept = "; the older file is whole" if path.exists() else ""
        raise OSError(f"{path}: cannot be written ({reason.strerror or reason}){kept}") from reason
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what a process that was killed left of a checkpoint; nobody else may be writing one there."""
    for partial in folder.glob(f".{name}.*.partial"):
        partial.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint; never runs code from it.

    PyTorch writes a checksum of every tensor, but does not look at it when it reads; a flipped bit would be trained on.

    Args:
        mmap: leave the tensors on disk until they are used, unchecked.

    Raises:
        ValueError: no such file, one that is cut off, damaged or no checkpoint, or one with more than tensors and plain
            values.
    """
    path = Path(with_home(path))
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for a broken file
        reason = first_line(error)[:200]
        raise ValueError(f"{path}: cut off, or no checkpoint of tensors and plain values alone ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    if not mmap and (damaged := damaged_part(path)):
        raise ValueError(f"{path}: {damaged}")
    return content


def checked_info(content: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The ``rcnn`` entry of a checkpoint's content.

    Raises:
        ValueError: it has none, or is of a later format, or incomplete.
    """
    info = content.get("rcnn")
    if info is None and are_ours(content.get("state_dict", content)):
        raise ValueError(f"{source}: {ALONE}")
    if not isinstance(info, dict) or "state_dict" not in content:
        raise ValueError(f"{source}: not a checkpoint of this toolkit; weights alone can be given as --model.weights")
    if info.get("format", 0) > FORMAT:
        raise ValueError(f"{source}: written by a later version ({info['versions']['rcnn-toolkit']}); update this one")
    lacking = {"format", "model", "num_classes", "categories", "preprocessing"} - info.keys()
    if lacking:
        raise ValueError(f"{source}: its entry rcnn lacks {', '.join(sorted(lacking))}; write it with save_model")
    try:
        _check_categories(info)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return info


def _check_categories(info: Mapping[str, Any]) -> None:
    named, count = info["categories"], info["num_classes"]
    if named and not len(named["names"]) == len(named["ids"]) == count:
        names, ids = len(named["names"]), len(named["ids"])
        raise ValueError(f"categories have {names} names and {ids} ids, but the detector {count} classes")


def are_ours(weights: Any) -> bool:
    """Whether this is a state dict whose tensors are called as in our detectors."""
    name = "box_head.logits.bias"
    return isinstance(weights, Mapping) and (name in weights or PREFIX + name in weights)


def detector_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The detector's part of a Lightning module's state dict."""
    return as_linear({name.removeprefix(PREFIX): value for name, value in state.items()})


def load_weights(model: nn.Module, weights: str | Path | Mapping[str, Tensor], source: str | None = None) -> None:
    """Fill a detector, all of it; frozen norms take the weights of batch norms, and the reverse.

    Args:
        weights: a state dict, or a file with one: a checkpoint, ``.pth`` or ``.safetensors``.
        source: how errors call it.

    Raises:
        ValueError: missing, unknown or differently shaped tensors, and what may be the reason.
    """
    if not isinstance(weights, Mapping):
        source, weights = str(weights), detector_weights(read_weights(weights))
    counters = {name: value for name, value in model.state_dict().items() if name.endswith(COUNTER)}
    weights = counters | {name: v for name, v in weights.items() if name in counters or not name.endswith(COUNTER)}
    check_weights(model, weights, source)
    model.load_state_dict(dict(weights))


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | None) -> None:
    """Refuse weights that do not fill a detector.

    Raises:
        ValueError: as :func:`load_weights`.
    """
    own, weights = as_linear(model.state_dict()), as_linear(weights)
    shapes = {
        name: (tuple(value.shape), tuple(own[name].shape))
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    }
    if "box_head.logits.bias" in shapes:
        theirs, ours = (shape[0] - 1 for shape in shapes["box_head.logits.bias"])  # the last is the background
        raise ValueError(f"{source}: a detector of {theirs} classes, but the annotations have {ours}")
    problems = {
        "lacks": [name for name in own if name not in weights],
        "has unknown": [name for name in weights if name not in own],
        "has other shapes:": [f"{name} {theirs} instead of {ours}" for name, (theirs, ours) in shapes.items()],
    }
    for problem, names in problems.items():
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"{source}: {problem} {listed}; was it trained with the same model settings?")


def plain(value: Any, name: str = "value") -> Any:
    """Dicts, lists and scalars only, as they can be read back without running code.

    Raises:
        ValueError: something else, called ``name``.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, name) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for kind in (bool, int, float, str):  # their subclasses could not be read back
        if isinstance(value, kind):
            return kind(value)
    if value is not None:
        raise ValueError(f"{name} holds a {type(value).__name__}; give plain numbers and strings")
    return None


def _restore(cls: Any, values: Mapping[str, Any], source: str | Path) -> Any:
    """A dataclass from plain values."""
    hints = get_type_hints(cls)
    unknown = values.keys() - {field.name for field in fields(cls)}
    if unknown:
        raise ValueError(f"{source}: unknown setting {', '.join(sorted(unknown))} of {cls.__name__}")
    return cls(
        **{
            name: _restore(hints[name], value, source) if is_dataclass(hints[name]) else _frozen(value)
            for name, value in values.items()
        }
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list) else value
