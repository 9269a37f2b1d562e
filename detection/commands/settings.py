"""Convert the short options of `rcnn train`, `validate` and `test` to settings of the configuration."""

import argparse
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from detection.commands.options import DATA, MODEL, add_shared
from detection.commands.printing import note
from detection.engine.early_options import is_of_classifier, is_of_pretraining
from detection.engine.hints import OPTIONS
from detection.engine.startup import is_first_rank
from detection.foreign import is_number

if TYPE_CHECKING:
    from detection.formats.recognise import DataSet

PRECISIONS = {"auto": "null", "fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

UNDOTTED = (
    *("-c", "--config", "--seed_everything", "--ckpt_path", "--init-from", "--print_config", "--weights_only"),
    *("--verbose", "--return_predictions", "--model", "--data", "--trainer", "--run", "--resume", "--deterministic"),
)
"""Options of the configuration without a dot."""
OTHERS = {
    **dict.fromkeys(("learning_rate", "lr0", "base_lr"), "--lr"),
    **dict.fromkeys(("epoch", "num_epochs", "max_epochs"), "--epochs"),
    **dict.fromkeys(("batch_size", "bs", "ims_per_batch"), "--batch"),
    **dict.fromkeys(("imgsz", "img_size", "image_size", "min_size"), "--size"),
    **dict.fromkeys(("dataset", "data_path", "data_dir", "data_root"), "--data"),
    **dict.fromkeys(("output_dir", "out_dir", "work_dir", "save_dir", "project", "name"), "--output"),
    **dict.fromkeys(("pretrained", "checkpoint", "ckpt", "load_from", "model_path"), "--weights"),
    **dict.fromkeys(("gpu", "gpus", "accelerator"), "--device"),
    **dict.fromkeys(("amp", "fp16", "bf16", "half"), "--precision"),
    **dict.fromkeys(("resume_from", "resume_from_checkpoint"), "--resume"),
    "num_workers": "--workers",
}
"""Short options by their names in other tools."""

FORMER = {
    "--ckpt_path": "--resume",
    "--init-from": "--weights",
    "--model.weights": "--weights",
    "--run.folder": "--output",
}
"""Short options for longer ones of earlier versions."""

Pairs = list[tuple[str, str]]
"""Settings with their values."""


def check_settings(given: Sequence[str], command: str = "train") -> None:
    """Reject an option that is not a setting, before slow imports.

    Args:
        given: words of the user.
        command: name of the command; a message may suggest its options.

    Raises:
        ValueError: the option does not exist; the message suggests the most similar one.
    """
    for word in given:
        name = word.split("=")[0].rstrip("+")
        if not name.startswith("-") or name in UNDOTTED or is_number(word):
            continue
        if "." in name:
            _check_dotted(name.lstrip("-"))
            continue
        key = name.lstrip("-").replace("-", "_").lower()
        near = OTHERS.get(key) or (f"--{OPTIONS[key]}" if key in OPTIONS else None)
        near = near or next(iter(get_close_matches(name, [*_flags(command), *UNDOTTED], 1)), None)
        hint = f"did you mean {near}?" if near else f"rcnn {command} --help-all lists all settings"
        raise ValueError(f"{name}: no such option; {hint}")


def _check_dotted(name: str) -> None:
    """Reject a setting that no class has, with the message of the slower parser."""
    from detection.engine.setting_names import all_names, wrong_name

    if wrong_name(name):
        from detection.engine.config_errors import no_option

        raise ValueError(no_option(name, all_names()))


def _flags(command: str) -> list[str]:
    """Return the long options of a command."""
    from detection.commands.main import parser_of

    return [flag for action in parser_of(command)._actions for flag in action.option_strings if flag[:2] == "--"]


def split_configs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the values of ``--config`` and ``-c`` among the words of a user, and the other words.

    Example:
        >>> split_configs(["-c", "data/own", "--data.flip", "0", "--config=sizes/640"])
        (['data/own', 'sizes/640'], ['--data.flip', '0'])
    """
    configs: list[str] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, joined, value = word.partition("=")
        if name in ("-c", "--config") and (joined or rest):  # the parser of all options reports a missing value
            configs.append(value if joined else rest.pop(0))
        else:
            others.append(word)
    return configs, others


def note_former(given: Sequence[str], command: str = "train") -> None:
    """Print the present spelling of each former option in one line, on rank 0."""
    for name in dict.fromkeys(word.split("=")[0] for word in given):
        now = FORMER.get(name)
        if now is not None and is_first_rank():
            now = "MODEL" if command != "train" and now in ("--resume", "--weights") else now
            note(f"note: {name} is {now} of rcnn {command} now; both work")


def data_settings(path: str, val_fraction: float = 0.2, seed: int = 0, need: Sequence[str] = ("train", "val")) -> Pairs:
    """Return the settings of a data set, which may be of any known form.

    Args:
        path: folder or file of the data set.
        val_fraction: fraction of images for validation, if the data set has no validation split.
        seed: seed of the random choice of these images.
        need: splits that must exist.
    """
    return settings_of_parts(path, open_and_print(path, need, val_fraction, seed))


def open_and_print(path: str, need: Sequence[str], val_fraction: float = 0.2, seed: int = 0) -> "DataSet":
    """Open a data set of any known form, and print a summary of it."""
    from detection.formats.recognise import open_data

    found = open_data(path, need=need, val_fraction=val_fraction, seed=seed)
    for line in found.lines:
        print(line)
    return found


def settings_of_parts(path: str, found: "DataSet") -> Pairs:
    """Return the settings that name the images and annotations of each split of a data set."""
    pairs = [("--data.root", str(path))]
    for name, part in found.parts.items():
        given = {"images": str(part.images.absolute()), "annotations": str(part.annotations.absolute())}
        pairs.append((f"--data.{name}", json.dumps(given)))
    if "val" not in found.parts and "train" in found.parts:
        pairs.append(("--data.val", "null"))
    return pairs


def add_data_options(parser: argparse.ArgumentParser, config: str) -> None:
    """Add DATA and ``--config``, for commands that look at data and train nothing.

    Args:
        config: help text of ``--config``.
    """
    parser.add_argument("data", nargs="?", metavar="DATA", help=DATA)
    parser.add_argument("-c", "--config", action="append", metavar="CONFIG", help=config)


def settings_of_data(options: argparse.Namespace) -> list[str]:
    """Return the settings of DATA and ``--config``, then the user's settings, which override them."""
    pairs = [("--config", name) for name in options.config or ()]
    pairs += [] if options.data is None else data_settings(options.data, need=())
    return [*words_of(pairs), *options.rest]


def words_of(pairs: Pairs) -> list[str]:
    """Return settings as words of a command line."""
    return [part for pair in pairs for part in pair]


def words_for_lightning(pairs: Pairs, options: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """Return settings as words of a command line, then the switches of all commands and the user's other words."""
    flags = [f"--{name.replace('_', '-')}" for name in ("trust_code", "debug") if getattr(options, name)]
    return [*words_of(pairs), *flags, *others]


def simple_settings(options: argparse.Namespace, classifies: bool = False) -> Pairs:
    """Return the settings of the options that training and validation share.

    Args:
        classifies: the model sees squares: it is a classifier, or a network in a pretraining without labels.

    Raises:
        ValueError: a classifier has no such option.
    """
    pairs: Pairs = []
    if classifies and options.size is not None:
        raise ValueError("--size: this model sees squares; give their side with --data.size and --data.resize")
    for setting, value in (
        ("--data.workers", options.workers),
        ("--trainer.precision", options.precision and PRECISIONS[options.precision]),
    ):
        pairs += [(setting, str(value))] if value is not None else []
    if options.size is not None:
        pairs += [("--data.short_side", str(options.size[0])), ("--data.long_side", str(options.size[1]))]
    if options.device is not None:
        kind, _, number = options.device.partition(":")
        pairs += [("--trainer.accelerator", {"cuda": "gpu"}.get(kind, kind))]
        pairs += [("--trainer.devices", f"[{number}]")] if number else []
    return pairs


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rcnn validate` and `rcnn test`."""
    unset = {"default": None}
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL)
    parser.add_argument("--data", metavar="PATH", help=DATA)
    add_shared(parser, "output", output={"help": "folder for the results"})
    add_shared(parser, "batch", "size", "device", "precision", "workers", "trust_code", device=unset, precision=unset)
    parser.add_argument("--help-all", action="store_true", help="print every setting")


def evaluation(subcommand: str, options: argparse.Namespace, split: str) -> list[str]:
    """Return the command line for Lightning that evaluates a split."""
    return [subcommand, "--help"] if options.help_all else [subcommand, *evaluation_settings(options, split)]


def evaluation_settings(options: argparse.Namespace, split: str) -> list[str]:
    """Return the configs, the settings of the short options, and the user's settings, which override all others."""
    command = {"val": "validate"}.get(split, split)
    check_settings(options.rest, command)
    note_former(options.rest, command)
    pairs: Pairs = []
    configs, others = split_configs(options.rest)
    if options.model is not None:
        config, weights = _model(options.model)
        if config is not None and not configs:
            configs = [str(config)]
        pairs.append(weights)
    words = [*(f"--config={name}" for name in configs), *others]
    pretrains = is_of_pretraining(words)
    classifies = pretrains or is_of_classifier(words)
    if options.data is not None and pretrains:
        raise ValueError("--data: give a network without labels to rcnn backbones probe RUN --data DATA")
    if options.data is not None:
        pairs += _evaluated_data(options.data, split, classifies)
    if options.output is not None:
        pairs.append(("--run.folder", str(options.output)))
    if options.batch is not None:
        pairs.append(("--data.eval_batch_size", str(options.batch)))
    pairs += simple_settings(options, classifies)
    return words_for_lightning([*(("--config", name) for name in configs), *pairs], options, others)


def _evaluated_data(path: str, split: str, classifies: bool) -> Pairs:
    """Return the settings of the data of an evaluation."""
    if classifies:
        from detection.commands.image_data import image_settings

        return image_settings(path)
    return data_settings(path, need=(split,))


def _model(model: str) -> tuple[Path | None, tuple[str, str]]:
    """Return the config of a model's run, if there is one, and the setting that names its weights."""
    from detection.classifier_files import classifier_file
    from detection.convert.run_folder import checkpoint_of

    place = Path(model)
    if place.suffix == ".safetensors" and classifier_file(place) is not None:
        if not (place.parent / "config.yaml").is_file():
            raise ValueError(f"{model}: has no config.yaml beside it; give the folder of the run")
        return place.parent / "config.yaml", ("--model.classifier.weights", model)
    if not place.exists() or place.suffix == ".safetensors":
        return None, ("--model.weights", model)
    checkpoint = checkpoint_of(place) if place.is_dir() else place
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml", ("--ckpt_path", str(checkpoint))
    return None, ("--ckpt_path", str(checkpoint))
