"""Train a detector, and evaluate it while it trains.

CONFIG is one of `rcnn configs list`, or a file; without it, Mask R-CNN with a ResNet-50 (Faster R-CNN where the data
have no masks). Any setting of the configuration is an option, too, as in `--model.backbone.name resnet101`.
"""

import argparse
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detection.commands.options import DATA, add_shared, is_number
from detection.engine.hints import OPTIONS

TAKES_SETTINGS = True
EPILOG = """\
example:
  rcnn train mask_rcnn_r50_fpn_1x_coco --data my_data --output runs/first --epochs 24 --batch 4

Ctrl-C saves a checkpoint and stops; the same line with --resume continues.
`rcnn train --help-all` lists every setting."""

PRECISIONS = {"auto": "null", "fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
DEFAULT_CONFIGS = {True: "mask_rcnn_r50_fpn_1x_coco", False: "faster_rcnn_r50_fpn_1x_coco"}
"""The config that is taken if the user names none, for data with and without masks."""


SHORT = (
    *("--data", "--val-fraction", "--output", "--epochs", "--batch", "--lr", "--size", "--weights", "--resume"),
    *("--device", "--precision", "--workers", "--seed", "--deterministic", "--trust-code", "--help-all", "--debug"),
)
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
"""Words of other tools, and what they are called here."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that most trainings need; all others are settings of the configuration."""
    unset = {"default": None}
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a configuration's name or file")
    parser.add_argument("--data", metavar="PATH", help=DATA)
    fraction = "part of the training images to validate on, if the data set has no such part (default 0.2)"
    parser.add_argument("--val-fraction", type=float, default=0.2, metavar="F", help=fraction)
    add_shared(parser, "output", output={"help": "folder of the run (default runs/CONFIG/version_N)"})
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the training images; the schedule follows")
    add_shared(parser, "batch", batch={"help": "images per step, over all devices"})
    parser.add_argument("--lr", type=float, metavar="RATE", help="learning rate at this batch size")
    add_shared(parser, "size")
    weights = "weights to begin with: a model, or imagenet for the backbone alone"
    parser.add_argument("--weights", metavar="MODEL", help=weights)
    parser.add_argument("--resume", nargs="?", const="auto", metavar="RUN", help="continue the run in --output or RUN")
    add_shared(parser, "device", "precision", "workers", "seed", device=unset, precision=unset, seed=unset)
    deterministic = "equal losses in two runs: up to rounding (seeded), or to the last bit (strict)"
    parser.add_argument("--deterministic", choices=("seeded", "strict"), help=deterministic)
    add_shared(parser, "trust_code")
    parser.add_argument("--help-all", action="store_true", help="print every setting")


def run(options: argparse.Namespace) -> int:
    """Train as the options say."""
    from detection import cli

    return cli.main(["fit", "--help"] if options.help_all else ["fit", *settings(options)])


def settings(options: argparse.Namespace) -> list[str]:
    """Return the settings that the short options stand for, then those of the user, which override them.

    Raises:
        ValueError: an option that neither this command nor the configuration can have, or a wrong value.
    """
    check_settings(options.rest)
    folder, resumed = _resumed(options)
    configs = [options.config] if options.config else []
    if not configs and "--config" not in options.rest and folder and (Path(folder) / "config.yaml").is_file():
        configs = [str(Path(folder) / "config.yaml")]
    data = [] if options.data is None else data_settings(options.data, options.val_fraction, options.seed or 0)
    if options.data is not None and not configs and "--config" not in options.rest:
        configs = [DEFAULT_CONFIGS[_has_masks(data)]]
    pairs = [("--config", name) for name in configs]
    pairs += data
    pairs += [("--run.folder", folder)] if folder else []
    pairs += _schedule(options, configs)
    pairs += [("--data.batch_size", str(options.batch))] if options.batch is not None else []
    pairs += [("--seed_everything", str(options.seed))] if options.seed is not None else []
    pairs += [("--deterministic", options.deterministic)] if options.deterministic else []
    pairs += [("--model.backbone.weights", "imagenet")] if options.weights == "imagenet" else []
    pairs += [("--model.weights", options.weights)] if options.weights not in (None, "imagenet") else []
    pairs += simple_settings(options)
    pairs += [("--resume", resumed)] if resumed else []
    flags = [f"--{name.replace('_', '-')}" for name in ("trust_code", "debug") if getattr(options, name)]
    return [part for pair in pairs for part in pair] + flags + options.rest


Pairs = list[tuple[str, str]]
"""Settings with their values."""


def check_settings(given: Sequence[str]) -> None:
    """Refuse an option that is no setting before anything slow is imported; settings have a dot in their names.

    Raises:
        ValueError: with the nearest option.
    """
    for word in given:
        name = word.split("=")[0].rstrip("+")
        if not name.startswith("-") or "." in name or name in UNDOTTED or is_number(word):
            continue
        key = name.lstrip("-").replace("-", "_").lower()
        near = OTHERS.get(key) or (f"--{OPTIONS[key]}" if key in OPTIONS else None)
        near = near or next(iter(get_close_matches(name, [*SHORT, *UNDOTTED], 1)), None)
        hint = f"did you mean {near}?" if near else "rcnn train --help-all lists all settings"
        raise ValueError(f"{name}: no such option; {hint}")


def _resumed(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the run's folder, and what ``--resume`` means to the training: ``auto`` or a checkpoint."""
    folder = None if options.output is None else str(options.output)
    if options.resume in (None, "auto"):
        return folder, options.resume
    if Path(options.resume).is_dir():
        return folder or options.resume, "auto" if folder is None else str(_checkpoint(options.resume))
    return folder, options.resume


def _checkpoint(folder: str) -> Path:
    """Return the checkpoint in a run's folder that training continues from."""
    from detection.engine.run import checkpoint_in

    found = checkpoint_in(folder)
    if found is None:
        raise ValueError(f"--resume {folder}: has no checkpoints/last.ckpt; give a run's folder or a checkpoint")
    return found


def data_settings(path: str, val_fraction: float = 0.2, seed: int = 0, need: Sequence[str] = ("train", "val")) -> Pairs:
    """Return the settings of a data set, which may be of any known form.

    Args:
        need: splits that must be there.
    """
    from detection.formats.recognise import open_data

    found = open_data(path, need=need, val_fraction=val_fraction, seed=seed)
    for line in found.lines:
        print(line)
    pairs = [("--data.root", str(path))]
    for name, part in found.parts.items():
        given = {"images": str(part.images.absolute()), "annotations": str(part.annotations.absolute())}
        pairs.append((f"--data.{name}", json.dumps(given)))
    if "val" not in found.parts and "train" in found.parts:
        pairs.append(("--data.val", "null"))
    return pairs


def _has_masks(data: Pairs) -> bool:
    """Return whether any training object has a mask."""
    from detection.documents import read_json

    annotations = json.loads(dict(data)["--data.train"])["annotations"]
    return any(one.get("segmentation") for one in read_json(Path(annotations))["annotations"])


def _schedule(options: argparse.Namespace, configs: Sequence[str]) -> Pairs:
    """Return the schedule for ``--epochs`` and ``--lr``: milestones move with the length."""
    pairs: Pairs = []
    if options.epochs is not None:
        if options.epochs < 1:
            raise ValueError(f"--epochs {options.epochs}: must be at least 1")
        schedule = _configured(configs)
        parts = [float(milestone) / float(schedule["length"]) for milestone in schedule["milestones"]]
        pairs += [("--model.schedule.unit", "epochs"), ("--model.schedule.length", str(options.epochs))]
        pairs += [("--model.schedule.milestones", json.dumps([round(part * options.epochs, 3) for part in parts]))]
    if options.lr is not None:
        pairs += [("--model.optimizer.lr", str(options.lr))]
        batch = options.batch or _configured(configs)["batch"]
        pairs += [("--model.schedule.reference_batch", str(batch))]
    return pairs


def _configured(configs: Sequence[str]) -> dict[str, Any]:
    """Return length and milestones of the schedule, and the batch, as the configs have them."""
    from detection.documents import read_yaml
    from detection.engine.configs import find_config

    schedule: dict[str, Any] = {"length": 12, "milestones": [8, 11], "batch": 16}  # of ScheduleConfig and the data
    for name in configs:
        content = read_yaml(Path(find_config(name))) or {}
        schedule |= (content.get("model") or {}).get("schedule") or {}
        schedule["batch"] = (content.get("data") or {}).get("batch_size", schedule["batch"])
    return schedule


def simple_settings(options: argparse.Namespace) -> Pairs:
    """Return the settings of the options that training and validation share."""
    pairs: Pairs = []
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
