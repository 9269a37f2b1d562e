"""The best evaluation of a run, and its summaries."""

import math
from types import SimpleNamespace

import torch

from detection.engine.summary import Best, best_line, last_lines, next_commands, page


def evaluated(callback: Best, step: int, box: float, mask: float) -> None:
    metrics = {"val/bbox/AP": box, "val/segm/AP": mask, "val/AP": mask}
    metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    trainer = SimpleNamespace(
        callback_metrics=metrics, sanity_checking=False, global_step=step, current_epoch=step // 10
    )
    callback.on_validation_end(trainer, None)


def test_the_best_evaluation_is_kept_over_a_stop():
    first = Best("val/AP")
    for step, box, mask in [(10, 0.5, 0.2), (20, 0.3, 0.25), (30, 0.9, math.nan)]:
        evaluated(first, step, box, mask)
    second = Best("val/AP")
    second.load_state_dict(first.state_dict())
    evaluated(second, 40, 0.6, 0.24)
    assert best_line(second.found) == "epoch 3 (step 20): box AP 30.0, mask AP 25.0"


def test_the_last_lines_name_what_is_there_and_the_next_commands_can_be_pasted(tmp_path):
    folder = tmp_path / "my run"
    assert last_lines("finished", {}, folder, next_commands(folder)) == [
        "Training finished",
        "  Best:     no evaluation",
        f"  Folder:   {folder}",
    ]
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("report.html", "checkpoints/last.ckpt"):
        (folder / name).touch()
    assert last_lines("interrupted", {"epoch": 1, "step": 4, "AP": {"box": 0.5}}, folder, next_commands(folder))[
        1:
    ] == [
        "  Best:     epoch 1 (step 4): box AP 50.0",
        f"  Folder:   {folder}",
        "  Files:    report.html",
        f"  Evaluate: rcnn validate '{folder}'",
        f"  Predict:  rcnn predict '{folder}' IMAGES --output '{folder}/predictions'",
    ]


def test_the_page_has_what_was_trained_and_no_table_of_a_foreign_name(tmp_path):
    data = {"annotations": "a|b.json", "images": 1, "objects": 2, "classes": 1}
    devices = {"count": 2, "name": None, "type": "cpu", "precision": "32-true"}
    start = {"command": "rcnn train demo", "devices": devices, "data": {"train": data}}
    record = {"result": "failed", "reason": "no disk\x1b[2J", "best": None, "last": {"epoch": 1, "step": 3}}
    text = page(
        {**record, "seconds": 3725.4, "starts": [start, start]},
        "MaskRCNN with resnet50",
        tmp_path,
        next_commands(tmp_path),
    )
    for line in (
        "| Result | failed (no disk\\x1b[2J) |",
        "| Time | 1:02:05 (h:mm:ss), 2 starts |",
        "| Device | 2 x cpu, precision 32-true |",
        "| Data: train | a\\|b.json: 1 image, 2 objects, 1 class |",
        f"rcnn validate {tmp_path}",
    ):
        assert line in text.splitlines()
    assert "report.html" not in text
