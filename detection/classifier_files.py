"""Files of image classifiers and of pretrained networks: write and read them, and hand their backbone to a detector.

The file of a classifier has the tensors of :class:`backbones.classifiers.Classifier`, and its settings, classes and
preprocessing under ``rcnn``, as the file of a detector has. That of a network that was pretrained without labels has
its tensors with the names of torchvision or timm, without the last layer. Nothing in a file is run or imported.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from backbones import BackboneConfig, build
from backbones.classifiers import Classifier, ClassifierConfig, build_classifier
from backbones.pretrained import without_classifier_prefix
from detection.checkpoint import COUNTER, NoRandomStart, check_weights
from detection.checkpoint_files import outline_checkpoint, replacing
from detection.classifier_description import (
    describe_classifier,
    is_classifier,
    is_pretrained,
    network_of,
    restored,
)
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


def export_pretrained(checkpoint: Path, path: Path) -> None:
    """Write the network in a checkpoint of a pretraining, without projector and predictor, to a safetensors file.

    Raises:
        ValueError: the checkpoint cannot be read, or its description is invalid.
        OSError: as for :func:`~detection.checkpoint_files.replacing`.
    """
    state, rest = files.read(checkpoint)
    network_of(rest.get("rcnn"), str(checkpoint))
    tensors = {name: value.contiguous() for name, value in without_classifier_prefix(state).items()}
    content = save(tensors, metadata={"rcnn": json.dumps(rest["rcnn"])})
    with replacing(path) as file:
        file.write(content)


def load_pretrained_network(source: str | Path) -> Classifier:
    """Load a network that was pretrained without labels, with a last layer of one class at random.

    Raises:
        ValueError: the source cannot be read, or is no such network.
    """
    path = _newest(source)
    config, preprocessing = network_of(description_in(path), str(path))
    model = build_classifier(1, replace(config, weights=str(path)))
    model.set_preprocessing(preprocessing)
    return model.eval()


def classifier_file(source: str | Path) -> Path | None:
    """Return the file of a classifier for a run's folder or a file; None if this is no classifier. Read no tensors."""
    return _file_of(source, is_classifier)


def pretrained_file(source: str | Path) -> Path | None:
    """Return the file of a pretraining without labels, as :func:`classifier_file` does for a classifier."""
    return _file_of(source, is_pretrained)


def _file_of(source: str | Path, fits: Callable[[Any], bool]) -> Path | None:
    """Return the first file of a run's folder, or the file itself, if its description is of a kind."""
    path = Path(with_home(str(source)))
    inside = [path / MODEL, *(place / name for name in CHECKPOINTS for place in (path / "checkpoints", path))]
    file = next((one for one in inside if one.is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        return None
    return file if fits(description_in(file)) else None


def _newest(source: str | Path) -> Path:
    """Return the file of a run's folder to take the weights from, or the file itself."""
    path = Path(with_home(str(source)))
    return model_of(path) if path.is_dir() else path


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
    """Return the settings of a detector's backbone whose weights are those of another run, and a line to print.

    The run is of a classifier, or a pretraining without labels. The weights become a file, mean and std those of the
    run, and the norm is of a kind that these weights fit. Other settings return as they are, with None.

    Raises:
        ValueError: the run has another network or width.
    """
    source = str(config.weights)
    if config.weights in (None, "imagenet") or (classifier_file(source) or pretrained_file(source)) is None:
        return config, None
    path = _newest(source)
    theirs, preprocessing = network_of(description_in(path), str(path))
    _check_same_network(theirs, config, source, "model.backbone")
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


def taken_by_classifier(config: ClassifierConfig, group: str = "model.classifier") -> tuple[ClassifierConfig, str]:
    """Return the settings of a network whose weights are those of a pretraining, and a line to print.

    Args:
        config: settings; their weights are a run or a file that :func:`pretrained_file` knows.
        group: name of the settings, for messages.

    Raises:
        ValueError: the pretraining has another network or width.
    """
    source, path = str(config.weights), _newest(str(config.weights))
    theirs, _ = network_of(description_in(path), str(path))
    _check_same_network(theirs, config, source, group)
    changed = replace(config, weights=str(path))
    with torch.device("meta"):
        state = build_classifier(1, replace(changed, weights=None)).state_dict()
    own = {name.removeprefix("network.") for name in state if COUNTER not in name}
    lacking = sorted(own - {name.removeprefix(f"{PREFIX}network.") for name in _tensor_names(path)})
    return changed, (
        f"Network: {len(own) - len(lacking)} of {plural(len(own), 'tensor')} from {path}; random: {', '.join(lacking)}"
    )


def _check_same_network(
    theirs: ClassifierConfig, config: BackboneConfig | ClassifierConfig, source: str, group: str
) -> None:
    """Reject weights of another network or width.

    Raises:
        ValueError: they differ; the message names the setting.
    """
    for key in ("name", "width"):
        mine, other = getattr(config, key), getattr(theirs, key)
        if mine != other:
            raise ValueError(
                f"weights: {source} has a network with {key} {shown(other, 80)}, but {group}.{key} is {mine}; set "
                f"--{group}.{key} {shown(other, 80)}"
            )


def _tensor_names(file: Path) -> list[str]:
    """Return the names of the tensors in a file, without reading them."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            return list(content.keys())
    return list(outline_checkpoint(file)["state_dict"])
