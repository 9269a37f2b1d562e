"""The last lines of a training."""

import math
from pathlib import Path
from types import SimpleNamespace

import torch

from detection.engine.summary import Summary, summary


def evaluated(callback: Summary, step: int, box: float, mask: float) -> None:
    metrics = {"val/bbox/AP": box, "val/segm/AP": mask, "val/AP": mask}
    metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    trainer = SimpleNamespace(
        callback_metrics=metrics, sanity_checking=False, global_step=step, current_epoch=step // 10
    )
    callback.on_validation_end(trainer, None)


def test_the_best_evaluation_is_kept_over_a_stop():
    first = Summary("val/AP")
    for step, box, mask in [(10, 0.5, 0.2), (20, 0.3, 0.25), (30, 0.9, math.nan)]:
        evaluated(first, step, box, mask)
    second = Summary("val/AP")
    second.load_state_dict(first.state_dict())
    evaluated(second, 40, 0.6, 0.24)
    lines = summary(second._best, Path("runs/a"), None)
    assert lines == [
        "Training is over",
        "  Best:       box AP 30.0, mask AP 25.0 (percent) at step 20, epoch 3",
        "  Folder:     runs/a",
    ]


def test_the_next_commands_can_be_pasted():
    lines = summary({}, Path("my runs/a"), Path("my runs/a/checkpoints/last.ckpt"))
    assert lines[1:] == [
        "  Folder:     my runs/a",
        "  Checkpoint: my runs/a/checkpoints/last.ckpt",
        "  Evaluate:   rcnn validate 'my runs/a'",
        "  Predict:    rcnn predict 'my runs/a' IMAGES --output 'my runs/a/predictions'",
    ]
