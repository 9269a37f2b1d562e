"""The best checkpoint of a run, and its score when the run is resumed."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from detection.checkpoint_files import read_checkpoint, replacing
from detection.engine.errors import user_input

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
"""Entries of the state of a ``ModelCheckpoint`` that are paths of files, or empty."""


class BestCheckpoint(ModelCheckpoint):
    """Save ``checkpoints/best.ckpt``: the weights with the highest value of a metric, over all starts of a run."""

    def __init__(self, monitor: str) -> None:
        # Without a version counter in the name: each run has its own folder.
        super().__init__(
            filename="best", monitor=monitor, mode="max", enable_version_counter=False, save_on_train_epoch_end=False
        )

    @property
    def older_key(self) -> str:
        """Key of the callback's state in checkpoints of versions that used Lightning's class."""
        return self.state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]  # Lightning saves it and does not load it


class KnownScores(Callback):
    """Restore the scores of a resumed run's checkpoints, also if the path of its folder has changed.

    Lightning drops the scores if the path has changed: after the run was moved, with another working directory, or
    with a new folder. A worse checkpoint would then replace the best one. This callback copies ``best.ckpt`` to a new
    folder. It drops the score of a missing file, so that the run writes the next checkpoint.
    """

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("callbacks", {})
        for callback in trainer.checkpoint_callbacks if trainer.state.fn == "fit" else ():
            if not isinstance(callback, ModelCheckpoint):
                continue
            state = states.get(callback.state_key)
            if state is None and isinstance(callback, BestCheckpoint):
                state = states.get(callback.older_key)
            if state is not None:
                states[callback.state_key] = self._as_here(trainer, module, callback, state)

    def _as_here(
        self, trainer: Trainer, module: LightningModule, callback: ModelCheckpoint, state: dict[str, Any]
    ) -> dict[str, Any]:
        folder = Path(str(callback.dirpath))
        names = {Path(path).name for path in (*state["best_k_models"], *(state[key] for key in PATHS)) if path}
        if trainer.is_global_zero and isinstance(callback, BestCheckpoint) and state["best_model_score"] is not None:
            beside = Path(str(trainer.ckpt_path)).with_name("best.ckpt")
            _copy_best(folder, state, [Path(state["best_model_path"]), beside])
        there = trainer.strategy.broadcast({name for name in names if (folder / name).is_file()})
        found = known_here(state, str(callback.dirpath), there, callback.mode)
        if isinstance(callback, BestCheckpoint) and found["best_model_score"] is None and state["best_k_models"]:
            score = float(state["best_model_score"])
            module.print(
                f"{folder} has no best.ckpt of this run ({callback.monitor} was {score:.3f}): the next validation "
                "writes it"
            )
        return found


def known_here(state: dict[str, Any], folder: str, there: set[str], mode: str) -> dict[str, Any]:
    """Return the state of a ``ModelCheckpoint`` with the paths of its files changed to ``folder``.

    Args:
        there: names of the checkpoint files that exist in the folder; the state drops all others.
        mode: ``min`` or ``max``: the best score is the lowest or the highest.
    """

    def moved(path: str) -> str:
        return os.path.join(folder, Path(path).name) if path and Path(path).name in there else ""

    scores = {moved(path): score for path, score in state["best_k_models"].items() if moved(path)}
    best, worst = (min, max) if mode == "min" else (max, min)
    found = state | {"dirpath": folder, "best_k_models": scores} | {key: moved(state[key]) for key in PATHS}
    if state["best_k_models"]:
        found["best_model_path"] = best(scores, key=scores.__getitem__, default="")
        found["best_model_score"] = scores.get(found["best_model_path"])
        if not found["kth_best_model_path"]:
            found["kth_best_model_path"] = worst(scores, key=scores.__getitem__, default="")
    return found


def _copy_best(folder: Path, state: dict[str, Any], sources: Sequence[Path]) -> None:
    """Copy ``best.ckpt`` of a run to its new folder, from the first source that has the best score."""
    path = folder / "best.ckpt"
    source = next((source for source in sources if source.is_file() and _has_score(source, state)), None)
    if source is None or path.exists():
        return
    with user_input():
        folder.mkdir(parents=True, exist_ok=True)
        with open(source, "rb") as old, replacing(path) as new:
            shutil.copyfileobj(old, new)


def _has_score(path: Path, state: dict[str, Any]) -> bool:
    try:
        states = read_checkpoint(path).get("callbacks", {})
    except ValueError:
        return False
    return any(
        isinstance(other, dict) and other.get("best_model_score") == state["best_model_score"]
        for key, other in states.items()
        if key.partition("{")[0] in (BestCheckpoint.__qualname__, ModelCheckpoint.__qualname__)
    )
