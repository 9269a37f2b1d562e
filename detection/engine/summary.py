"""Find the best validation of a run, and write its summary as the last lines of the console and ``summary.md``."""

import math
import shlex
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from backbones.classifiers import ClassifierConfig
from detection.foreign import shown
from detection.wording import plural

KINDS = {
    "box": "val/bbox/AP",
    "mask": "val/segm/AP",
    "keypoint": "val/keypoints/AP",
    "semantic": "val/semantic/mIoU",
    "panoptic": "val/panoptic/PQ",
    "top-1": "val/top1",
    "top-5": "val/top5",
    "mAP": "val/mAP",
    "F1": "val/F1",
    "k-NN": "val/knn",
}
UNITS = {"semantic": "mIoU", "panoptic": "PQ", "top-1": "top-1 accuracy", "top-5": "top-5 accuracy"}
UNITS |= {"mAP": "mAP", "F1": "F1", "k-NN": "k-NN accuracy"}
"""What the score of a kind is, if it is not AP."""
FILES = {
    "report.html": "evaluation report: errors, classes, worst images",
    "curves.png": "losses, AP and learning rate",
    "images": "training samples, and predictions at each validation",
    "model.safetensors": "the best weights, with classes and settings",
    "checkpoints/last.ckpt": "the state from which training resumes",
    "train.csv": "metrics of the training",
    "val.csv": "metrics of each validation",
    "config.yaml": "all settings",
    "run.json": "commands, versions, devices and data",
    "log.txt": "output of the console",
    "classes_val.md": "accuracy of each class, confusions and calibration, of the last validation",
    "classes_val.json": "the same for programs",
    "classes.txt": "class names, in the order of their labels",
}


class Best(Callback):
    """Keep the metrics of the best validation over all starts of a run.

    Args:
        monitor: name of the metric whose highest value is best.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor = monitor
        self.found: dict[str, Any] = {}
        """``epoch`` (from 1), ``step``, ``score``, and fractions by kind as ``AP``; empty without a validation."""

    @property
    def state_key(self) -> str:
        return "Summary"  # the name of the class in checkpoints of older versions

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self.found)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = dict(state_dict["best"])

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = metrics.get(self._monitor, math.nan)
        if trainer.sanity_checking or math.isnan(score) or score <= self.found.get("score", -math.inf):
            return
        self.found = {"score": score, "step": trainer.global_step, "epoch": trainer.current_epoch + 1}
        known = {kind: metrics.get(name, math.nan) for kind, name in KINDS.items()}
        self.found["AP"] = {kind: value for kind, value in known.items() if not math.isnan(value)}


def best_line(best: Mapping[str, Any]) -> str:
    """Return a line about the best validation, with its scores in percent."""
    if not best:
        return "no evaluation"
    scores = ", ".join(f"{UNITS.get(kind, f'{kind} AP')} {100 * value:.1f}" for kind, value in best["AP"].items())
    return f"epoch {best['epoch']} (step {best['step']}): {scores}"


def next_commands(folder: Path) -> dict[str, str]:
    """Return commands that a user may run next."""
    place = shlex.quote(str(folder))
    return {
        "Evaluate": f"rcnn validate {place}",
        "Predict": f"rcnn predict {place} IMAGES --output {shlex.quote(str(folder / 'predictions'))}",
    }


def commands_after_pretraining(folder: Path, network: ClassifierConfig) -> dict[str, str]:
    """Return commands that take a network pretrained without labels: a detector's training, and a probe."""
    place, name = shlex.quote(str(folder)), shlex.quote(network.name)
    width = f" --model.backbone.width {network.width}" if network.width != ClassifierConfig.width else ""
    return {
        "Detect": f"rcnn train mask_rcnn_r50_fpn_1x_coco --data DATA --model.backbone.name {name}{width} "
        f"--model.backbone.weights {place}",
        "Probe": f"rcnn backbones probe {place} --data DATA",
    }


def last_lines(result: str, best: Mapping[str, Any], folder: Path, commands: Mapping[str, str]) -> list[str]:
    """Return the last lines of a training on the console.

    Args:
        result: ``finished`` or ``interrupted``.
        best: metrics of the best validation, ``found`` of :class:`Best`.
        folder: folder of the run.
        commands: commands that a user may run next, by their purpose.
    """
    there = [
        name for name in ("summary.md", "report.html", "curves.png", "model.safetensors") if is_there(folder, name)
    ]
    lines = [f"Training {result}", f"  Best:     {best_line(best)}", f"  Folder:   {folder}"]
    lines += [f"  Files:    {', '.join(there)}"] if there else []
    if not any(is_there(folder, f"checkpoints/{name}.ckpt") for name in ("best", "last")):
        return lines
    return [*lines, *(f"  {name + ':':9s} {command}" for name, command in commands.items())]


def page(record: Mapping[str, Any], model: str, folder: Path, commands: Mapping[str, str]) -> str:
    """Return the content of ``summary.md``.

    Args:
        record: content of ``run.json``.
        model: description of the detector.
        folder: folder of the run.
        commands: as for :func:`last_lines`.
    """
    start = record["starts"][-1]
    why = f" ({shown(record['reason'], 300)})" if record.get("reason") else ""
    facts = {
        "Result": f"{record['result']}{why}",
        "Model": model,
        "Best": best_line(record["best"] or {}),
        "End": f"epoch {record['last']['epoch']}, step {record['last']['step']}",
        "Time": f"{timedelta(seconds=round(record['seconds']))} (h:mm:ss), {plural(len(record['starts']), 'start')}",
        "Device": _device(start["devices"]),
        **{f"Data: {split}": _data(data) for split, data in start["data"].items()},
        "Command": f"`{start['command']}`",
    }
    files = "\n".join(f"- [{name}]({name}): {text}" for name, text in FILES.items() if is_there(folder, name))
    rows = "\n".join(f"| {name} | {_cell(text)} |" for name, text in facts.items())
    return (
        f"# {shown(folder.resolve().name)}\n\n| | |\n| --- | --- |\n{rows}\n\n"
        f"{_unit(record['best'] or {})}, in percent, on the validation images.\n\n"
        f"## Next\n\n```bash\n{chr(10).join(commands.values())}\n```\n\n## Files\n\n{files}\n"
    )


def is_there(folder: Path, name: str) -> bool:
    """Return whether the folder of a run has a file or a folder of this name."""
    return (folder / name).exists()


def _unit(best: Mapping[str, Any]) -> str:
    if "mAP" in best.get("AP", {}):
        return "mAP is the mean of the average precisions of the classes; F1 is at a probability of 0.5"
    if best.get("AP", {}).keys() & {"top-1", "k-NN"}:
        return "Accuracy is the fraction of right images"
    return "AP is COCO's"


def _device(devices: Mapping[str, Any]) -> str:
    return f"{devices['count']} x {devices['name'] or devices['type']}, precision {devices['precision']}"


def _data(data: Mapping[str, Any]) -> str:
    units = {"images": "image", "objects": "object", "classes": "class"}
    counts = ", ".join(plural(data[key], unit) for key, unit in units.items() if key in data)
    return f"{shown(data['annotations'], None)}: {counts}"


def _cell(text: str) -> str:
    """Escape a text for a table of Markdown."""
    return text.replace("|", "\\|")
