"""Checkpoints that suffice on their own, and load without running code.

A checkpoint is a dict of tensors and plain values. What Lightning needs to go on training lies beside two entries:
``state_dict`` (the detector's weights, their names prefixed by ``model.``) and ``rcnn`` (what is needed to rebuild
the detector and to read its answers: :func:`describe_model`). No class paths are stored, so renaming breaks no file.
"""

import os
import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backbones import is_known
from backbones.pretrained import is_state_dict, read_weights
from detection import __version__
from detection.checkpoint_files import outline_checkpoint as outline_checkpoint
from detection.checkpoint_files import read_checkpoint, write_checkpoint
from detection.checkpoint_files import replacing as replacing
from detection.checkpoint_files import sweep as sweep
from detection.checkpoint_schema import FORMAT, PARTS, check_categories, check_info, restore_configs
from detection.data.errors import first_line
from detection.foreign import shown
from detection.models.build import build_detector
from detection.models.rcnn import FasterRCNN
from detection.models.roi_linear import as_linear
from detection.structures import Categories
from detection.wording import plural

PREFIX = "model."
COUNTER = "num_batches_tracked"
"""What a batch norm has and a frozen one lacks; with a momentum nothing depends on it."""
ALONE = "weights without the settings to build their detector from; write it with detection.checkpoint.save_model"


def save_model(model: FasterRCNN, path: str | Path, configs: Mapping[str, Any] | None = None) -> None:
    """Write a detector that :func:`load_model` can rebuild.

    Args:
        configs: for a detector that was assembled by hand: the configs from which
            :func:`~detection.models.build.build_detector` builds its like, by the names of the arguments; what is left
            out is at its default, and without ``mask_head`` there is none. Other detectors keep theirs.

    Raises:
        ValueError: as :func:`description`.
        OSError: as :func:`replacing`.

    Example:
        >>> save_model(build_detector(3, "resnet18"), "faster.ckpt")  # doctest: +SKIP
    """
    if isinstance(model, str | Path) and isinstance(path, FasterRCNN):
        raise ValueError(f"save_model: the model comes first, then the path: save_model(model, {str(model)!r})")
    info = description(model, path, configs)
    state = {PREFIX + name: value for name, value in as_linear(model.state_dict()).items()}
    write_checkpoint({"state_dict": state, "rcnn": info}, path)


def load_model(path: str | Path, trust_code: bool = False) -> tuple[FasterRCNN, dict[str, Any]]:
    """Rebuild a detector from its checkpoint alone.

    Args:
        trust_code: import the custom backbone that the file names, which runs its code.

    Returns:
        model: on the CPU, in evaluation mode, with ``categories`` and ``test_size``.
        info: the checkpoint's ``rcnn`` entry; see :func:`describe_model`.

    Raises:
        ValueError: no such file, a broken one, one that this toolkit has not written, or a custom backbone in a file
            that is not trusted.
    """

    def look(outlined: Mapping[str, Any]) -> None:
        info = checked_info(outlined, path)
        configs = restore_configs(info, path, trust_code)
        check_shapes(info["num_classes"], configs, detector_weights(outlined["state_dict"]), str(path))

    content = read_checkpoint(path, look=look)
    info = checked_info(content, path)
    configs = restore_configs(info, path, trust_code)
    with NoRandomStart() if is_known(configs["backbone"].name) else nullcontext():
        model = build_detector(info["num_classes"], **configs)
    if info["categories"] is not None:
        model.categories = Categories(tuple(info["categories"]["names"]), tuple(info["categories"]["ids"]))
    model.test_size = (info["preprocessing"]["short_side"], info["preprocessing"]["long_side"])
    model.resize = info["preprocessing"].get("resize", "opencv")
    model.depth = info["preprocessing"].get("depth", 8)
    load_weights(model, detector_weights(content["state_dict"]), str(path))
    return model.eval(), info


class NoRandomStart(TorchFunctionMode):
    """Leaves out the random values of new layers, which take a third of the time: all weights come from a file.

    On the meta device they would also make PyTorch import its compiler, which takes longer than importing PyTorch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):  # of torch.nn.init, and of a tensor
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def check_shapes(num_classes: int, configs: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> None:
    """Check that weights fill the detector of these configs before it takes memory.

    A custom backbone is left out, since it may do anything when it is built.

    Raises:
        ValueError: settings that make no detector, or as :func:`load_weights`.
    """
    if not is_known(configs["backbone"].name):
        return
    try:
        with torch.device("meta"), NoRandomStart():
            model = build_detector(num_classes, **configs)
    except Exception as error:  # PyTorch raises many kinds for sizes that no layer has
        raise ValueError(f"{source}: its settings make no detector ({first_line(error)[:120]})") from error
    check_weights(model, _with_counters(model, weights), source)


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
            "torchvision": version("torchvision"),
            "python": platform.python_version(),
        },
    }
    info = {key: plain(value, key) for key, value in info.items()}
    check_categories(info)
    return info


def check_rebuilt(model: FasterRCNN, info: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a description from which another model would be built than the one to be written.

    Raises:
        ValueError: with what differs.
    """
    check_info(info, "the model")
    configs = restore_configs(info, path, trust_code=True)
    if not is_known(configs["backbone"].name) or configs["backbone"].name.startswith("timm/"):
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


def checked_info(content: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The ``rcnn`` entry of a checkpoint's content, checked against its schema.

    Raises:
        ValueError: it has none, or one that :func:`~detection.checkpoint_schema.check_info` rejects; or the weights
            are no state dict.
    """
    info: Any = content.get("rcnn")
    if info is None and are_ours(content.get("state_dict", content)):
        raise ValueError(f"{source}: {ALONE}")
    if info is None or "state_dict" not in content:
        raise ValueError(f"{source}: not a checkpoint of this toolkit; weights alone can be given as --model.weights")
    check_info(info, source)
    if not is_state_dict(content["state_dict"]):
        raise ValueError(f"{source}: its state_dict is no mapping of names to tensors")
    return dict(info)


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
    weights = _with_counters(model, weights)
    check_weights(model, weights, source)
    model.load_state_dict(weights)


def _with_counters(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the counters of norms that the model has, and without those that it lacks."""
    counters = {name: value for name, value in model.state_dict().items() if name.endswith(COUNTER)}
    return counters | {name: v for name, v in weights.items() if name in counters or not name.endswith(COUNTER)}


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
    if all(len(shape) == 1 for shape in shapes.get("box_head.logits.bias", [()])):
        theirs, ours = (shape[0] - 1 for shape in shapes["box_head.logits.bias"])  # the last is the background
        raise ValueError(f"{source}: a detector of {plural(theirs, 'class')}, but the annotations have {ours}")
    kinds = [
        name
        for name, value in weights.items()
        if name in own and value.is_floating_point() != own[name].is_floating_point()
    ]
    problems = {
        "lacks": [name for name in own if name not in weights],
        "has unknown": [name for name in weights if name not in own],
        "has other shapes:": [f"{name} {theirs} instead of {ours}" for name, (theirs, ours) in shapes.items()],
        "has other kinds of numbers in": kinds,
    }
    for problem, names in problems.items():
        if names:
            listed = ", ".join(shown(name, 80) for name in names[:3]) + (
                f" and {len(names) - 3} more" if len(names) > 3 else ""
            )
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
