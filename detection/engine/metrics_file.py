"""``metrics.json``: a line for each evaluation of a run, for other programs to read."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.documents import parse_json


class MetricsFile(Callback):
    """Appends a line to ``metrics.json`` in the run's folder at every evaluation, for other programs to read.

    Checkpoints hold the lines of all evaluations before them, so that a resumed run has those of one that was never
    stopped.
    """

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._resumed = False

    def state_dict(self) -> dict[str, Any]:
        return {"lines": list(self._lines)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._lines, self._resumed = checked_lines(state_dict["lines"]), True

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        folder = trainer.log_dir  # asks all ranks
        known = self._resumed or trainer.ckpt_path is None  # older checkpoints hold no lines
        if not known or folder is None or not trainer.is_global_zero:
            return
        if kept := restore_lines(Path(folder) / "metrics.json", self._lines):
            module.print(f"metrics.json had evaluations that this checkpoint does not know: they are in {kept}")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._append(trainer, "val/")

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._append(trainer, "test/")

    def _append(self, trainer: Trainer, prefix: str) -> None:
        folder = trainer.log_dir  # asks all ranks
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        if trainer.is_global_zero and folder is not None:
            line: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            line |= {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            if trainer.state.fn == "fit":
                self._lines.append(line)
            Path(folder).mkdir(parents=True, exist_ok=True)
            with open(Path(folder) / "metrics.json", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def restore_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path | None:
    """Make ``metrics.json`` hold the evaluations of a run up to its checkpoint; where the old file is if it had others.

    A run that was killed after an evaluation and before it saved has a line for it, and the resumed run writes another.
    What ``rcnn validate`` and ``test`` appended stays.

    Args:
        lines: of the evaluations that the checkpoint knows.
    """
    found = _read(path)
    others = [line for line in found if line is None or (line not in lines and _is_of_training(line))]
    known = [line for line in found if line is not None and line not in others]
    missing = [line for line in lines if line not in known]
    if not others and not missing:
        return None
    kept = None
    if others:
        kept = path.with_name(f"metrics_{len(list(path.parent.glob('metrics_*.json')))}.json")
        os.replace(path, kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    ordered = [*lines, *(line for line in known if line not in lines)] if missing else known
    partial.write_text("".join(json.dumps(line) + "\n" for line in ordered), encoding="utf-8")
    os.replace(partial, path)
    return kept


def checked_lines(lines: Any) -> list[dict[str, Any]]:
    """The lines of evaluations out of a checkpoint.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(lines, list) or not all(isinstance(line, dict) and _is_plain(line) for line in lines):
        raise ValueError("its evaluations are no list of names and numbers")
    return list(lines)


def _is_plain(line: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, int | float | None) for name, value in line.items())


def _read(path: Path) -> list[dict[str, Any] | None]:
    """The file's lines; None for one that was cut off."""
    if not path.is_file():
        return []
    return [_parsed(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = parse_json(line.encode(), "metrics.json")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_of_training(line: dict[str, Any]) -> bool:
    """Whether a training wrote the line; ``rcnn validate`` and ``test`` count no steps."""
    return bool(line.get("step"))
