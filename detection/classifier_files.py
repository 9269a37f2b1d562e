"""Files of image classifiers: write and read them, and hand their backbone to a detector.

A file has the tensors of :class:`backbones.classifiers.Classifier`, and its settings, classes and preprocessing under
``rcnn``, as the file of a detector has. Nothing in a file is run or imported.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from backbones import BackboneConfig, build
from backbones.classifiers import Classifier, build_classifier
from detection.checkpoint import COUNTER, NoRandomStart, check_weights
from detection.checkpoint_files import outline_checkpoint, replacing
from detection.classifier_description import describe_classifier, is_classifier, restored
from detection.convert import files
from detection.convert.run_folder import CHECKPOINTS, MODEL, model_of
from detection.data.errors import first_line
from detection.documents import parse_json
from detection.foreign import shown
from detection.home import with_home
from detection.wording import plural

PREFIX = "model."
"""Prefix of the tensors in a checkpoint of a training."""


def save_classifier(model: Classifier, path: str | Path) -> None:
    """Write a classifier to a safetensors file that :func:`load_classifier` can read.

    Raises:
        OSError: as for :func:`~detection.checkpoint_files.replacing`.
    """
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    content = save(tensors, metadata={"rcnn": json.dumps(describe_classifier(model))})
    with replacing(Path(path)) as file:
        file.write(content)


def load_classifier(source: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """Load a trained classifier, in evaluation mode.

    Args:
        source: a run's folder (its ``model.safetensors``, else ``best.ckpt``, else ``last.ckpt``), or a file.
        device: device of the classifier.

    Raises:
        ValueError: the source does not exist, cannot be read, or is not a classifier of this toolkit.

    Example:
        >>> model = load_classifier("runs/flowers")  # doctest: +SKIP
        >>> model.names[:2]  # doctest: +SKIP
        ('daisy', 'dandelion')
    """
    path = Path(with_home(str(source)))
    path = model_of(path) if path.is_dir() else path
    state, rest = files.read(path)
    weights = without_prefix(state)
    with torch.device("meta"):  # so that wrong settings take no memory
        check_weights(built(rest.get("rcnn"), str(path)), weights, str(path))
    model = built(rest["rcnn"], str(path))
    model.load_state_dict(weights)
    return model.eval().to(device)


def built(info: Any, source: str) -> Classifier:
    """Build the classifier of a description, without useful weights.

    Raises:
        ValueError: the description is invalid.
    """
    config, num_classes, names, preprocessing, multi_label = restored(info, source)
    try:
        with NoRandomStart():
            model = build_classifier(num_classes, config)
    except Exception as error:  # PyTorch raises many kinds of exceptions for invalid sizes
        raise ValueError(f"{source}: its settings are invalid ({first_line(error)[:120]})") from error
    model.names, model.multi_label = names, multi_label
    model.set_preprocessing(preprocessing)
    return model


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint with the names of the classifier."""
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def classifier_file(source: str | Path) -> Path | None:
    """Return the file of a classifier for a run's folder or a file; None if this is no classifier. Read no tensors."""
    path = Path(with_home(str(source)))
    inside = [path / MODEL, *(place / name for name in CHECKPOINTS for place in (path / "checkpoints", path))]
    file = next((one for one in inside if one.is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        return None
    return file if is_classifier(description_in(file)) else None


def description_in(file: Path) -> Any:
    """Return the entry ``rcnn`` of a file; None if the file has none or cannot be read. Read no tensors."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as content:
                return parse_json((content.metadata() or {}).get("rcnn", "null").encode(), file)
        return outline_checkpoint(file).get("rcnn") if file.suffix == ".ckpt" else None
    except Exception:  # safetensors does not export its error class; the caller's reader reports a damaged file
        return None


def handed_over(config: BackboneConfig) -> tuple[BackboneConfig, str | None]:
    """Return the settings of a detector's backbone whose weights are those of a classifier's run, and a line to print.

    The weights become a file, mean and std those of the run, and the norm is of a kind that these weights fit. Other
    settings return as they are, with None.

    Raises:
        ValueError: the classifier has another network or width.
    """
    if config.weights in (None, "imagenet") or classifier_file(str(config.weights)) is None:
        return config, None
    source = str(config.weights)
    path = Path(with_home(source))
    path = model_of(path) if path.is_dir() else path
    theirs, _, _, preprocessing, _ = restored(description_in(path), str(path))
    for key in ("name", "width"):
        mine, other = getattr(config, key), getattr(theirs, key)
        if mine != other:
            raise ValueError(
                f"weights: {source} is a classifier with {key} {shown(other, 80)}, but model.backbone.{key} is {mine}; "
                f"set --model.backbone.{key} {shown(other, 80)}"
            )
    norm = config.norm
    if (theirs.norm == "group") != (norm == "group"):
        norm = "group" if theirs.norm == "group" else "frozen"
    mean, std = config.mean or preprocessing.mean, config.std or preprocessing.std
    changed = replace(config, weights=str(path), mean=mean, std=std, norm=norm)
    with torch.device("meta"):
        own = {name for name in build(replace(changed, weights=None, freeze=0)).state_dict() if COUNTER not in name}
    named = {name.removeprefix(PREFIX).removeprefix("network.") for name in _tensor_names(path) if COUNTER not in name}
    unused, lacking = sorted(named - own), len(own - named)
    means, stds = (" ".join(f"{value:g}" for value in values) for values in (mean, std))
    return changed, (
        f"Backbone: {len(own) - lacking} of {plural(len(own), 'tensor')} from {path}; not used: "
        f"{', '.join(unused[:4]) or 'none'}; mean {means}, std {stds}, norm {norm}"
    )


def _tensor_names(file: Path) -> list[str]:
    """Return the names of the tensors in a file, without reading them."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            return list(content.keys())
    return list(outline_checkpoint(file)["state_dict"])
