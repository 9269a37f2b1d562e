"""The results of a training, to compare a stopped and resumed run with an uninterrupted one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint import read_checkpoint
from detection.engine.module import DetectionModule
from detection.evaluation.coco import CocoEvaluator
from detection.run_files import evaluations

PATHS = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")


def vary_ap(replace: Callable[[type, str, Any], None]) -> None:
    """Let the AP of boxes depend on the scores of the detections, and rise and fall every four steps.

    The true AP of so short a training is 0: its best checkpoint would always be the first.

    Args:
        replace: sets an attribute of a class, as ``setattr`` or the one of pytest's ``monkeypatch``.
    """
    begin, evaluate = DetectionModule.on_validation_epoch_start, CocoEvaluator.evaluate
    step = 0

    def noted(self: DetectionModule) -> None:
        nonlocal step
        step = self.trainer.global_step
        begin(self)

    def varied(self: CocoEvaluator) -> dict[str, float]:
        scores = sum(found["score"] for found in self.results("bbox"))
        high = step // 4 % 2 == 0
        return evaluate(self) | {"bbox/AP": 0.5 * high + 0.4 * (3e3 * scores % 1)}

    replace(DetectionModule, "on_validation_epoch_start", noted)
    replace(CocoEvaluator, "evaluate", varied)


def outcome(folder: Path) -> dict[str, Any]:
    """Both checkpoints of a run, and the lines of its evaluations."""
    curve = evaluations(folder)
    return {"curve": curve} | {name: content(folder, name) for name in ("last", "best")}


def content(folder: Path, name: str = "last") -> dict[str, Any]:
    """All that a checkpoint holds but the paths of its folder."""
    found = read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")
    for state in found["callbacks"].values():
        for key in PATHS:
            state.pop(key, None)
        if "best_k_models" in state:
            state["best_k_models"] = list(state["best_k_models"].values())
    found["loops"]["fit_loop"].pop("epoch_loop.val_loop.batch_progress")  # Lightning's, counted per start
    return found


def different(one: Any, other: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """Where two outcomes are not equal to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in different(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, pair in pairs for found in different(*pair, f"{place}/{i}")]
    equal = (
        torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other or (one != one and other != other)
    )
    return [] if equal else [(place, one, other)]
