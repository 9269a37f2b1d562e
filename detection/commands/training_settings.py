"""Convert the options of `rcnn train` to settings of the configuration."""

import argparse
import json
import re
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from detection.commands.image_data import image_settings, unlabelled_settings
from detection.commands.settings import (
    Pairs,
    check_settings,
    note_former,
    open_and_print,
    settings_of_parts,
    simple_settings,
    split_configs,
    words_for_lightning,
)
from detection.engine.early_options import is_of_classifier, is_of_pretraining

DEFAULT_CONFIGS = {True: "mask_rcnn_r50_fpn_1x_coco", False: "faster_rcnn_r50_fpn_1x_coco"}
"""Default config for data with masks (True) and without masks (False)."""

_MASK = re.compile(rb'(?<!\\)"segmentation"\s*:\s*(?:\[\s*[^\s\]]|\{\s*[^\s}]|"[^"])')
"""A segmentation that is not empty: a list, an RLE or a string."""


def settings(options: argparse.Namespace) -> list[str]:
    """Return the configs, the settings of the short options, and the user's settings, which override all others.

    Raises:
        ValueError: neither this command nor the configuration has an option, or a value is wrong.
    """
    check_settings(options.rest)
    note_former(options.rest)
    folder, resumed = _resumed(options)
    overlays, others = split_configs(options.rest)
    configs = [*([options.config] if options.config else []), *overlays]
    if not configs and folder and (Path(folder) / "config.yaml").is_file():
        configs = [str(Path(folder) / "config.yaml")]
    data: Pairs = []
    words = [*(f"--config={name}" for name in configs), *others]
    kind = "simsiam" if is_of_pretraining(words) else "classifier" if is_of_classifier(words) else "detector"
    if options.data is not None and kind == "simsiam":
        data = unlabelled_settings(options.data)
    elif options.data is not None and kind == "classifier":
        data = image_settings(options.data, options.val_fraction, options.seed or 0)
    elif options.data is not None:
        found = open_and_print(options.data, ("train", "val"), options.val_fraction, options.seed or 0)
        data = settings_of_parts(options.data, found)
        configs = configs or [DEFAULT_CONFIGS[_has_masks(found.parts["train"].annotations)]]
    pairs = [("--config", name) for name in configs]
    pairs += data
    pairs += [("--run.folder", folder)] if folder else []
    pairs += _schedule(options, configs)
    pairs += [("--data.batch_size", str(options.batch))] if options.batch is not None else []
    pairs += [("--run.find_lr", "true")] if options.find_lr else []
    pairs += [("--seed_everything", str(options.seed))] if options.seed is not None else []
    pairs += [("--run.trackers", json.dumps(options.trackers))] if options.trackers else []
    pairs += [("--deterministic", options.deterministic)] if options.deterministic else []
    pairs += _weights(options.weights, kind)
    pairs += simple_settings(options, kind != "detector")
    pairs += [("--resume", resumed)] if resumed else []
    return words_for_lightning(pairs, options, others)


def _resumed(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the run's folder, and the value of ``--resume`` for the training: None, ``auto`` or a checkpoint."""
    folder = None if options.output is None else str(options.output)
    if options.resume in (None, "auto"):
        return folder, options.resume
    if Path(options.resume).is_dir():
        return folder or options.resume, "auto" if folder is None else str(_checkpoint(options.resume))
    return folder, options.resume


def _checkpoint(folder: str) -> Path:
    """Return the checkpoint in a run's folder from which training resumes."""
    from detection.engine.found_checkpoint import checkpoint_in

    found = checkpoint_in(folder)
    if found is None:
        raise ValueError(f"--resume {folder}: has no checkpoints/last.ckpt; give a run's folder or a checkpoint")
    return found


def _has_masks(annotations: Path) -> bool:
    """Return whether any object of a COCO file has a mask, without reading the file as JSON.

    The training reads it later. In JSON, a quotation mark inside a text has a backslash before it.
    """
    with open(annotations, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return _MASK.search(content) is not None


def _weights(given: str | None, kind: str) -> Pairs:
    """Return the setting for ``--weights``.

    Args:
        given: value of the option.
        kind: ``detector``, ``classifier``, or ``simsiam`` for a pretraining without labels.
    """
    if given is None:
        return []
    wholes = {"classifier": "--model.classifier.weights", "simsiam": "--model.network.weights"}
    of_detector = "--model.backbone.weights" if given == "imagenet" else "--model.weights"
    return [(wholes.get(kind, of_detector), given)]


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
    """Return length and milestones of the schedule, and the batch size, from the configs."""
    from detection.engine.configs import combine, load_yaml, read_config

    settings: dict[str, Any] = {}
    for name in configs:
        is_inline = name.lstrip().startswith("{")
        settings = combine(settings, load_yaml(name) if is_inline else read_config(name).settings)
    schedule = (settings.get("model") or {}).get("schedule") or {}
    batch = (settings.get("data") or {}).get("batch_size", 16)
    return {"length": 12, "milestones": [8, 11], "batch": batch} | schedule  # of ScheduleConfig and the data
