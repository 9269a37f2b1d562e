"""Self-contained checkpoints that load without running code.

A checkpoint is a dict of tensors and plain values with two entries of this toolkit. ``state_dict`` holds the detector's
weights, with the prefix ``model.``. ``rcnn`` holds the settings, classes and preprocessing (:func:`describe_model`).
Further entries hold the training state of Lightning. A checkpoint stores no class paths, so it survives renamings.
"""

import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backbones import is_known
from backbones.pretrained import is_state_dict, read_weights
from detection import __version__
from detection.categories import Categories
from detection.checkpoint_files import outline_checkpoint as outline_checkpoint
from detection.checkpoint_files import read_checkpoint, write_checkpoint
from detection.checkpoint_files import replacing as replacing
from detection.checkpoint_files import sweep as sweep
from detection.checkpoint_schema import (
    FORMAT,
    OPTIONAL,
    PARTS,
    TWO_STAGE,
    check_categories,
    check_info,
    has_proposals,
    may_be_absent,
    restore_categories,
    restore_configs,
    restore_thresholds,
)
from detection.data.errors import first_line
from detection.foreign import shown
from detection.models.build import build_detector
from detection.models.detector import Detector
from detection.models.roi_linear import as_linear
from detection.plain import plain as plain
from detection.wording import plural

EXPORTED = frozenset({".safetensors", ".onnx", ".xml", ".pt2"})
"""Endings of exported files, which are not checkpoints."""
PREFIX = "model."
SEMANTIC = "semantic_head.logits.bias"
"""A tensor that only the weights of a semantic head have."""
COUNTER = "num_batches_tracked"
"""A buffer that batch norms have and frozen norms lack; norms with a momentum do not use it."""
ALONE = "weights without the settings of their detector; write the file with detection.checkpoint.save_model"


def save_model(model: Detector, path: str | Path, configs: Mapping[str, Any] | None = None) -> None:
    """Write a detector to a checkpoint that :func:`load_model` can read.

    Args:
        model: the detector.
        path: the file to write.
        configs: only for a detector that you assembled by hand: the arguments with which
            :func:`~detection.models.build.build_detector` builds the same detector, by name. Missing ones have their
            defaults; without ``mask_head`` there is no mask head. Other detectors know their configs.

    Raises:
        ValueError: as for :func:`description`, or the path has the ending of an exported file, which
            :func:`load_model` would not read as a checkpoint.
        OSError: as for :func:`replacing`.

    Example:
        >>> save_model(build_detector(3, "resnet18"), "faster.ckpt")  # doctest: +SKIP
    """
    if isinstance(model, str | Path) and isinstance(path, Detector):
        raise ValueError(f"save_model: give the model first, then the path: save_model(model, {str(model)!r})")
    if Path(path).suffix in EXPORTED:
        raise ValueError(
            f"{path}: save_model writes a checkpoint, with a name such as {Path(path).stem}.ckpt; for another format, "
            "call model.export(path) or run rcnn export"
        )
    info = description(model, path, configs)
    state = {PREFIX + name: value for name, value in as_linear(model.state_dict()).items()}
    write_checkpoint({"state_dict": state, "rcnn": info}, path)


def load_model(path: str | Path, trust_code: bool = False) -> tuple[Detector, dict[str, Any]]:
    """Rebuild a detector from its checkpoint.

    Args:
        path: the checkpoint.
        trust_code: import the custom backbone that the file names, which runs its code.

    Returns:
        model: on the CPU, in evaluation mode, with ``categories`` and ``test_size``.
        info: the checkpoint's ``rcnn`` entry; see :func:`describe_model`.

    Raises:
        ValueError: the file does not exist, is damaged, or is not a checkpoint of this toolkit. Or it names a custom
            backbone, and ``trust_code`` is False.
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
    model.categories = restore_categories(info)
    model.test_size = (info["preprocessing"]["short_side"], info["preprocessing"]["long_side"])
    model.resize = info["preprocessing"].get("resize", "opencv")
    model.depth = info["preprocessing"].get("depth", 8)
    model.thresholds = restore_thresholds(info)
    load_weights(model, detector_weights(content["state_dict"]), str(path))
    return model.eval(), info


class NoRandomStart(TorchFunctionMode):
    """Skip the random initialisation of layers, which takes a third of the time; all weights come from a file.

    On the meta device, initialisation also makes PyTorch import its compiler, which is slower than importing PyTorch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not getattr(func, "__name__", "").endswith(("normal_", "uniform_")):  # of torch.nn.init and torch.Tensor
            return func(*args, **kwargs)
        tensor: Tensor = args[0] if args else kwargs["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_) and not tensor.is_meta:
            # PyTorch's trunc_normal_ draws until all values are in its range: forever, if they stayed as they are.
            tensor.fill_(args[1] if len(args) > 1 else kwargs.get("mean", kwargs.get("from", 0.0)))
        return tensor


def check_shapes(num_classes: int, configs: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> None:
    """Check that weights fit the detector of these configs, before it takes memory.

    Skip the check for a custom backbone, as building it can run any code.

    Raises:
        ValueError: the settings are invalid, or as for :func:`load_weights`.
    """
    if not is_known(configs["backbone"].name):
        return
    try:
        with torch.device("meta"), NoRandomStart():
            model = build_detector(num_classes, **configs)
    except Exception as error:  # PyTorch raises many kinds of exceptions for invalid sizes
        raise ValueError(f"{source}: its settings are invalid ({first_line(error)[:120]})") from error
    check_weights(model, _with_counters(model, weights), source)


def description(model: Detector, path: str | Path, configs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the ``rcnn`` entry for a detector's file, after a check that the file will load.

    Raises:
        ValueError: the model is not a detector; its configs are missing or wrong; its weights contain NaN or Inf; or as
            for :func:`describe_model`. The message names ``path``.
    """
    if not isinstance(model, Detector):
        raise ValueError(f"{path}: not written: expected a detector as first argument, got {type(model).__name__}")
    try:
        info = describe_model(model, _own_configs(model, configs))
        check_rebuilt(model, info, path)
        for name, value in model.state_dict().items():
            if value.is_meta or not value.isfinite().all():
                raise ValueError(f"{name} has NaN or Inf; use weights from an earlier step")
    except ValueError as error:
        raise ValueError(f"{path}: not written: {error}") from error
    return info


def describe_model(model: Detector, configs: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a detector, without its weights, in plain values.

    Returns:
        ``model`` (configs by part), ``num_classes``, ``categories`` (``names``, original ``ids`` and, with keypoints,
        ``skeletons`` by label, or None),
        ``preprocessing`` (``short_side``, ``long_side``, ``resize`` at test time, ``depth``), ``versions`` and
        ``format``. Also ``thresholds``, if the detector has some.

    Raises:
        ValueError: a value is not plain, or the number of categories differs from the number of classes.
    """
    categories = model.categories
    if categories is not None and not isinstance(categories, Categories):
        raise ValueError(f"categories are a {type(categories).__name__}; give detection.categories.Categories")
    info: dict[str, Any] = {
        "format": FORMAT,
        "model": _plain_configs(configs),
        "num_classes": model.num_classes,
        "categories": categories and _described(categories),
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
    if model.thresholds is not None:
        info["thresholds"] = asdict(model.thresholds)
    info = {key: plain(value, key) for key, value in info.items()}
    check_categories(info)
    return info


def _described(categories: Categories) -> dict[str, Any]:
    described: dict[str, Any] = {"names": list(categories.names), "ids": list(categories.ids)}
    return described | ({"skeletons": [one.to_coco() for one in categories.skeletons]} if categories.skeletons else {})


def check_rebuilt(model: Detector, info: Mapping[str, Any], path: str | Path) -> None:
    """Check that a description rebuilds the model.

    Raises:
        ValueError: it rebuilds another model; the message names the difference.
    """
    check_info(info, "the model")
    configs = restore_configs(info, path, trust_code=True)
    if not is_known(configs["backbone"].name) or configs["backbone"].name.startswith("timm/"):
        return  # building a custom backbone can run any code
    try:
        with torch.device("meta"):
            check_weights(build_detector(model.num_classes, **configs), model.state_dict(), "the model")
    except ValueError as error:
        raise ValueError(f"configs are not those of this detector: {error}") from error


def _own_configs(model: Detector, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the configs that a detector holds; for one that holds none, the given configs."""
    if model.configs is None:
        if given is None:
            raise ValueError("this detector was not made by build_detector; give its configs")
        return given
    if given is not None:
        ours, theirs = _plain_configs(model.configs), _plain_configs(given)
        theirs["backbone"]["weights"] = ours["backbone"]["weights"]  # initial weights do not matter
        differing = [part for part in PARTS if ours.get(part) != theirs.get(part)]
        if differing:
            raise ValueError(f"configs are not those of this detector: {differing[0]} differs; leave configs out")
    return model.configs


def _plain_configs(configs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting by part, as plain values; None for the parts of two stages that the detector lacks."""
    unknown = configs.keys() - PARTS.keys()
    if unknown:
        raise ValueError(f"configs: unknown part {', '.join(sorted(unknown))}; use {', '.join(PARTS)}")
    parts = {name: configs.get(name) for name in PARTS if name not in OPTIONAL or configs.get(name) is not None}
    if not has_proposals(configs):
        parts |= dict.fromkeys(TWO_STAGE)
    for name, part in parts.items():
        if part is None and name not in may_be_absent(configs):
            parts[name] = PARTS[name]()
        elif part is not None and not isinstance(part, PARTS[name]):
            raise ValueError(f"configs: {name} is a {type(part).__name__}; give a {PARTS[name].__name__}")
    return {name: None if part is None else plain(asdict(part), f"model.{name}") for name, part in parts.items()}


def checked_info(content: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Return the ``rcnn`` entry of a checkpoint's content, after a check against its schema.

    Raises:
        ValueError: there is no such entry, :func:`~detection.checkpoint_schema.check_info` rejects it, or the weights
            are not a state dict.
    """
    info: Any = content.get("rcnn")
    if info is None and are_ours(content.get("state_dict", content)):
        raise ValueError(f"{source}: {ALONE}")
    if info is None or "state_dict" not in content:
        raise ValueError(f"{source}: not a checkpoint of this toolkit; to use only its weights, set --model.weights")
    if isinstance(info, Mapping) and "classifier" in info:
        raise ValueError(
            f"{source}: is an image classifier, and a detector is needed; a detector can take its backbone with "
            "--model.backbone.weights"
        )
    if isinstance(info, Mapping) and "network" in info:
        raise ValueError(
            f"{source}: was pretrained without labels, and knows no classes; train a detector or a classifier with "
            "--model.backbone.weights or --weights"
        )
    check_info(info, source)
    if not is_state_dict(content["state_dict"]):
        raise ValueError(f"{source}: its state_dict is not a mapping of names to tensors; the file is damaged")
    return dict(info)


def are_ours(weights: Any) -> bool:
    """Return whether this is a state dict with this toolkit's names of tensors."""
    names = ("box_head.logits.bias", "box_head.stages.0.logits.bias", "head.logits.bias", SEMANTIC)
    return isinstance(weights, Mapping) and any(name in weights or PREFIX + name in weights for name in names)


def detector_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the detector's part of a Lightning module's state dict."""
    return as_linear({name.removeprefix(PREFIX): value for name, value in state.items()})


def load_weights(model: nn.Module, weights: str | Path | Mapping[str, Tensor], source: str | None = None) -> None:
    """Load all weights of a detector. Frozen norms accept the weights of batch norms, and vice versa.

    Args:
        model: the detector.
        weights: a state dict, or a file with one: a checkpoint, ``.pth`` or ``.safetensors``.
        source: name of the weights in error messages.

    Raises:
        ValueError: a tensor is missing, unknown or has another shape; the message names a possible reason.
    """
    if not isinstance(weights, Mapping):
        source, weights = str(weights), detector_weights(read_weights(weights))
    weights = _with_counters(model, weights)
    check_weights(model, weights, source)
    model.load_state_dict(weights)


def _with_counters(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with exactly the batch norm counters that the model has."""
    counters = {name: value for name, value in model.state_dict().items() if name.endswith(COUNTER)}
    return counters | {name: v for name, v in weights.items() if name in counters or not name.endswith(COUNTER)}


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | None) -> None:
    """Check that weights fit a detector.

    Raises:
        ValueError: as for :func:`load_weights`.
    """
    own, weights = as_linear(model.state_dict()), as_linear(weights)
    shapes = {
        name: (tuple(value.shape), tuple(own[name].shape))
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    }
    theirs, ours = class_count(weights), class_count(own)
    if theirs is not None and ours is not None and theirs != ours:
        raise ValueError(f"{source}: the detector has {plural(theirs, 'class')}, but the annotations have {ours}")
    kinds = [
        name
        for name, value in weights.items()
        if name in own and value.is_floating_point() != own[name].is_floating_point()
    ]
    problems = {
        "lacks": [name for name in own if name not in weights],
        "has unknown": [name for name in weights if name not in own],
        "has other shapes:": [f"{name} {theirs} instead of {ours}" for name, (theirs, ours) in shapes.items()],
        "has other dtypes in": kinds,
    }
    for problem, names in problems.items():
        if names:
            listed = ", ".join(shown(name, 80) for name in names[:3]) + (
                f" and {len(names) - 3} more" if len(names) > 3 else ""
            )
            raise ValueError(f"{source}: {problem} {listed}; was it trained with the same model settings?")


def class_count(state: Mapping[str, Tensor]) -> int | None:
    """Return how many classes the detector of these weights has; None where their shapes do not say."""
    two_stage = state.get("box_head.logits.bias", state.get("box_head.stages.0.logits.bias"))
    one_stage = state.get("head.logits.bias")
    if two_stage is not None and two_stage.ndim == 1:
        return len(two_stage) - 1  # the last is the background
    if one_stage is not None and one_stage.ndim == 1:
        deltas = state.get("head.deltas.bias")
        per_cell = 1 if deltas is None or deltas.ndim != 1 else max(1, len(deltas) // 4)
        return len(one_stage) // per_cell
    semantic = state.get(SEMANTIC)
    return len(semantic) if semantic is not None and semantic.ndim == 1 else None
