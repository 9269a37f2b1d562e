"""Read options that determine others, before the parser of all options runs: checkpoints and weights set the model."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from detection.home import with_home

SUBCOMMANDS = ("fit", "validate", "test", "predict")


def complete(arguments: list[str]) -> list[str]:
    """Add to a command line the subcommand ``fit`` if it is missing, and the settings that trained weights need.

    Raises:
        InputError: the checkpoint or the weights cannot be read.
    """
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments = ["fit", *arguments]
    if arguments and arguments[0] == "train":
        arguments = ["fit", *arguments[1:]]
    if not arguments or arguments[0] not in SUBCOMMANDS:
        return arguments
    given = _early_options(arguments)
    arguments = [argument for argument in arguments if argument != "--trust-code"]
    if given.checkpoint == "auto":
        given.checkpoint = _checkpoint_of_run(given)
        arguments = _replace(arguments, "--resume", "auto", given.checkpoint)
    trusted = given.trust_code or given.backbone or _in_configs(given.config, "model", "backbone", "name") or False
    reference = given.weights or _in_configs(given.config, "model", "weights")
    started_from_weights = reference not in (None, "null", "")
    if given.checkpoint not in (None, "best", "last", "hpc", "null"):
        # A resumed run keeps its configs, unless weights had overridden them.
        taken = arguments[0] != "fit" or started_from_weights
        settings = _settings_of_checkpoint(given.checkpoint, trusted or not taken)
        return _with_settings(arguments, settings, given) if taken else arguments
    if not started_from_weights:
        return arguments
    return _with_settings(arguments, _settings_of_weights(str(reference), arguments[0] == "fit", trusted), given)


def is_of_classifier(arguments: Sequence[str]) -> bool:
    """Return whether the configs or options of a command line have the group ``model.classifier``."""
    return _has_group(arguments, "classifier")


def is_of_pretraining(arguments: Sequence[str]) -> bool:
    """Return whether the configs or options of a command line have the group ``model.simsiam``."""
    return _has_group(arguments, "simsiam")


def _has_group(arguments: Sequence[str], group: str) -> bool:
    from detection.engine.configs import load_yaml, read_config

    if any(argument.startswith(f"--model.{group}") for argument in arguments):
        return True
    for name in _early_options(arguments).config:
        try:
            settings = load_yaml(name) if name.lstrip().startswith("{") else read_config(name).settings
            if group in (settings.get("model") or {}):
                return True
        except (OSError, AttributeError, ValueError, TypeError):
            continue  # the parser reports it
    return False


def _early_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options that determine others; if an option is given twice, its last value counts."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    parser.add_argument("--ckpt_path", "--resume", dest="checkpoint")
    parser.add_argument("--model.weights", "--init-from", dest="weights")
    parser.add_argument("--model.backbone.name", dest="backbone")
    parser.add_argument("--run.folder", dest="folder")
    parser.add_argument("--trust-code", action="store_true")
    try:
        return parser.parse_known_args(arguments)[0]
    except argparse.ArgumentError:  # an option without its value, which the parser of all options reports
        return parser.parse_args([])


def _checkpoint_of_run(given: argparse.Namespace) -> str | None:
    """Return the checkpoint for ``--resume auto``; None if the folder has none.

    Raises:
        InputError: there is no setting for the folder, or the folder cannot be read.
    """
    from detection.engine.errors import InputError, user_input
    from detection.engine.found_checkpoint import checkpoint_in

    folder = given.folder or _in_configs(given.config, "run", "folder")
    if folder is None:
        raise InputError("--resume auto needs the folder of the run; set it with --run.folder")
    with user_input():
        found = checkpoint_in(folder)
    return None if found is None else str(found)


def _replace(arguments: list[str], option: str, value: str, new: str | None) -> list[str]:
    """Return the arguments with a new value of an option, or without the option if the new value is None."""
    joined, replaced = f"{option}={value}", [] if new is None else [option, new]
    parts = [part for argument in arguments for part in ([option, value] if argument == joined else [argument])]
    while (option, value) in (pairs := list(pairwise(parts))):
        place = pairs.index((option, value))
        parts[place : place + 2] = replaced
    return parts


def _settings_of_checkpoint(path: str, trust_code: bool | str) -> dict[str, Any]:
    from detection.checkpoint import checked_info, outline_checkpoint, plain
    from detection.checkpoint_schema import restore_configs
    from detection.classifier_description import is_pretrained
    from detection.engine.errors import user_input

    with user_input():
        outline = outline_checkpoint(path)
        if isinstance(outline.get("rcnn"), dict) and "classifier" in outline["rcnn"]:
            return _settings_of_classifier(outline["rcnn"], path)
        if is_pretrained(outline.get("rcnn")):
            return _settings_of_pretraining(outline["rcnn"], path)
        configs = restore_configs(checked_info(outline, path), path, trust_code)
    model = {part: plain(asdict(value)) for part, value in configs.items()}
    return {"model": {**absent_parts(model), **model, "weights": None}}


def _settings_of_classifier(info: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the settings of a classifier's network and images, from the description in its file."""
    from detection.checkpoint import plain
    from detection.classifier_description import restored

    config, _, _, preprocessing, multi_label = restored(info, path)
    size: dict[str, Any] = {"size": preprocessing.crop, "resize": preprocessing.resize}
    size["interpolation"] = preprocessing.interpolation
    model: dict[str, Any] = {"classifier": plain(asdict(config))}
    if multi_label:
        model, size = model | {"loss": {"kind": "binary"}}, size | {"multi_label": True}
    return {"model": model, "data": size}


def _settings_of_pretraining(info: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the settings of a pretrained network and of its images, from the description in its file."""
    from detection.checkpoint import plain
    from detection.classifier_description import network_of

    config, preprocessing = network_of(info, path)
    size = {"size": preprocessing.crop, "resize": preprocessing.resize, "interpolation": preprocessing.interpolation}
    return {"model": {"network": plain(asdict(config))}, "data": size}


def absent_parts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for the parts that a detector does not have, which override those of a config."""
    from detection.checkpoint import plain
    from detection.checkpoint_schema import PARTS, TWO_STAGE

    return {
        part: plain(asdict(PARTS[part]())) if part in TWO_STAGE else None
        for part in PARTS
        if model.get(part) is None and part not in ("backbone", "fpn")
    }


def _settings_of_weights(reference: str, fit: bool, trust_code: bool | str) -> dict[str, Any]:
    """Return the settings of the model of some weights, and for evaluation also those for resizing images."""
    from detection.checkpoint import plain
    from detection.convert.pretrained import load_pretrained
    from detection.engine.errors import user_input

    with user_input():
        found = load_pretrained(reference, trust_code)
    model = plain({part: value and asdict(value) for part, value in vars(found.config).items()})
    model |= absent_parts(model)
    for head in ("mask_head", "keypoint_head", "point_head"):
        if fit and found.config.rpn is not None and model[head] is None:
            del model[head]  # a Mask R-CNN may start from the weights of a Faster R-CNN
    data = {"short_side": found.test_size[0], "long_side": found.test_size[1], "resize": found.resize}
    if found.depth != 8:
        data["depth"] = found.depth
    return {"model": model} | ({} if fit else {"data": data})


def _with_settings(arguments: list[str], settings: Mapping[str, Any], given: argparse.Namespace) -> list[str]:
    """Insert settings after the configs, which they override, and before single options, which override them.

    Replace ``--trust-code`` by the name of the backbone to trust, since other processes of the run get this line.
    """
    added = ["--config=" + json.dumps(settings)]
    if given.trust_code and given.backbone is None:
        added.append(f"--model.backbone.name={settings['model']['backbone']['name']}")
    places = [i + 2 for i, argument in enumerate(arguments) if argument in ("-c", "--config")]
    places += [i + 1 for i, argument in enumerate(arguments) if argument.startswith("--config=")]
    place = max(places, default=1)
    return arguments if added[0] in arguments else [*arguments[:place], *added, *arguments[place:]]


def _in_configs(configs: Sequence[str], *keys: str) -> str | None:
    """Return the value of a key in the last config file that sets it.

    Ignore inline configs, since their content may come from an untrusted file.
    """
    from detection.engine.configs import read_config

    found = None
    for name in configs:
        try:
            content: Any = read_config(name).settings
            for key in keys[:-1]:
                content = content.get(key) or {}
            found = with_home(content.get(keys[-1], found))
        except (OSError, AttributeError, ValueError):
            continue  # the parser reports it
    return found
