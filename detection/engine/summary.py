"""The last lines of a training: its best AP, its files, and the next commands."""

import math
import shlex
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

KINDS = {"box": "val/bbox/AP", "mask": "val/segm/AP"}


class Summary(Callback):
    """Remembers the best evaluation, over all starts of a run, and says it in the last lines of a training."""

    def __init__(self, monitor: str) -> None:
        self._monitor, self._best = monitor, dict[str, Any]()

    def state_dict(self) -> dict[str, Any]:
        return {"best": dict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = dict(state_dict["best"])

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = found.get(self._monitor, math.nan)
        if trainer.sanity_checking or math.isnan(score) or score <= self._best.get("score", -math.inf):
            return
        self._best = {"score": score, "step": trainer.global_step, "epoch": trainer.current_epoch + 1}
        self._best["AP"] = {kind: found[name] for kind, name in KINDS.items() if name in found}

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # asks all ranks
        if folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            module.print("\n".join(summary(self._best, Path(folder), _checkpoint(trainer, Path(folder)))))


def summary(best: dict[str, Any], folder: Path, checkpoint: Path | None) -> list[str]:
    """The lines.

    Args:
        best: ``AP`` by kind as fractions, ``step`` and ``epoch`` (from 1); empty without an evaluation.
        checkpoint: None where none was written.
    """
    lines = ["Training is over"]
    if best:
        scores = ", ".join(f"{kind} AP {100 * value:.1f}" for kind, value in best["AP"].items())
        lines.append(f"  Best:       {scores} (percent) at step {best['step']}, epoch {best['epoch']}")
    lines.append(f"  Folder:     {folder}")
    if checkpoint is None:
        return lines
    place, output = shlex.quote(str(folder)), shlex.quote(str(folder / "predictions"))
    return [
        *lines,
        f"  Checkpoint: {checkpoint}",
        f"  Evaluate:   rcnn validate {place}",
        f"  Predict:    rcnn predict {place} IMAGES --output {output}",
    ]


def _checkpoint(trainer: Trainer, folder: Path) -> Path | None:
    """The best one, or else the last."""
    best = [
        callback.best_model_path for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)
    ]
    found = [Path(path) for path in best if path] + [folder / "checkpoints" / "last.ckpt"]
    return next((path for path in found if path.is_file()), None)
