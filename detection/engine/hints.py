"""Suggest an option for an unknown one: by a table of other tools' names, then by the most similar own name.

A hint is the end of a message: ``; did you mean NAME?``, or empty.
"""

import difflib
import re
from collections.abc import Mapping, Sequence

from detection.engine.shortcuts import SHORTCUTS

EPOCHS = "model.schedule.length (in epochs while model.schedule.unit is epochs; trainer.max_epochs ends a run early)"
OPTIONS = {
    "learning_rate": "model.optimizer.lr",
    "lr0": "model.optimizer.lr",
    "base_lr": "model.optimizer.lr",
    "epochs": EPOCHS,
    "epoch": EPOCHS,
    "num_epochs": EPOCHS,
    "max_iter": "model.schedule.length (in iterations with model.schedule.unit iterations)",
    "iterations": "model.schedule.length (in iterations with model.schedule.unit iterations)",
    "steps": "trainer.max_steps",
    "lr_steps": "model.schedule.milestones",
    "wd": "model.optimizer.weight_decay",
    "optim": "model.optimizer.name",
    "optimizer": "model.optimizer.name",
    "scheduler": "model.schedule.kind",
    "warmup_iters": "model.schedule.warmup",
    "warmup_steps": "model.schedule.warmup",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "ims_per_batch": "data.batch_size",
    "num_workers": "data.workers",
    "imgsz": "data.short_side (and data.long_side)",
    "img_size": "data.short_side (and data.long_side)",
    "image_size": "data.short_side (and data.long_side)",
    "min_size": "data.short_side",
    "max_size": "data.long_side",
    "dataset": "data.root",
    "data_path": "data.root",
    "data_dir": "data.root",
    "gpus": "trainer.devices",
    "device": "trainer.accelerator (cpu, gpu; trainer.devices says how many)",
    "amp": "trainer.precision (bf16-mixed, 16-mixed)",
    "fp16": "trainer.precision (16-mixed)",
    "bf16": "trainer.precision (bf16-mixed)",
    "clip_grad": "trainer.gradient_clip_val",
    "grad_clip": "trainer.gradient_clip_val",
    "accumulate": "trainer.accumulate_grad_batches",
    "seed": "seed_everything",
    "output": "run.folder",
    "output_dir": "run.folder",
    "out_dir": "run.folder",
    "work_dir": "run.folder",
    "save_dir": "run.folder",
    "patience": "run.early_stopping",
    "ema": "run.average",
    "pretrained": "model.weights (a detector's), or model.backbone.weights",
    "load_from": "model.weights",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "resume_from": "resume",
    "anchor_sizes": "model.rpn.anchors.sizes",
    "score_thresh": "model.box_head.score_threshold",
    "conf": "model.box_head.score_threshold",
    "nms_thresh": "model.box_head.nms_threshold",
    "iou": "model.box_head.nms_threshold",
    "max_det": "model.box_head.detections",
}
"""Options by their names in other tools, in lower case and with underscores."""
_SHORTCUTS = tuple(shortcut.name.removeprefix("--") for shortcut in SHORTCUTS)
SUBCOMMANDS = {
    "eval": "validate",
    "evaluate": "validate",
    "val": "validate",
    "inference": "predict",
    "infer": "predict",
    "detect": "predict",
}
"""Subcommands by their names in other tools; ``train`` is an alias of ``fit``."""
NETWORKS = {
    r"(?:resnet|r)[_-]?(\d+)": r"r\1",
    r"resnext101(?:_32x8d)?": "x101_32x8d",
    r"wide_resnet50(?:_2)?": "wide_r50_2",
}
"""Names of backbones in the toolkit's configs, by patterns of their names in other tools."""


def nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint at an option: by the table, then by the whole name, then by the last part of the name."""
    place = _meaning(word, known) or _near(word.replace("-", "_"), known)
    return f"; did you mean {place}?" if place else ""


def nearest_config(name: str, known: Sequence[str]) -> str:
    """Return a hint at a shipped config, such as ``faster_rcnn_r18_fpn_1x_coco`` for ``faster_rcnn_resnet18``."""
    key = name.lower().replace("-", "_").replace("fasterrcnn", "faster_rcnn").replace("maskrcnn", "mask_rcnn")
    for pattern, ours in NETWORKS.items():
        key = re.sub(rf"(?<=_){pattern}(?=_|$)", ours, key)
    begun = sorted((one for one in known if one.startswith(f"{key}_")), key=lambda one: (len(one), one))
    near = begun or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_subcommand(word: str, known: Sequence[str]) -> str:
    """Return a hint at a subcommand."""
    meant = SUBCOMMANDS.get(word.lower()) or next(iter(difflib.get_close_matches(word.lower(), known, 1, 0.5)), None)
    return f"; did you mean {meant}?" if meant else ""


def _meaning(word: str, known: Sequence[str]) -> str | None:
    """Return the table's option for a word, if this parser has that option; else None."""
    tail, tails = word.rsplit(".", 1)[-1].lower().replace("-", "_"), _tails(known)
    meant = OPTIONS.get(tail) if "." not in word or tail not in tails else None
    if "." not in word and meant is None:
        meant = tails.get(tail)
    if meant is None and tail not in tails and (near := difflib.get_close_matches(tail, OPTIONS, 1, 0.85)):
        meant = OPTIONS[near[0]]
    name = meant and meant.split(" ")[0]
    return meant if name in (*known, *_SHORTCUTS) else None


def _near(word: str, known: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(word, [*known, *_SHORTCUTS], n=1, cutoff=0.8)
    if not near:  # the last part alone, as in weight_decy for model.optimizer.weight_decay
        tails = _tails(known)
        near = [tails[tail] for tail in difflib.get_close_matches(word.rsplit(".", 1)[-1], list(tails), 1, 0.75)]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return near[0] if near else None


def _tails(known: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Return options by the last part of their name; if several end with it, the first."""
    return {name.rsplit(".", 1)[-1]: name for name in reversed(list(known))}
