"""An evaluation without a trainer: mean losses, metrics, printed lines and files."""

import json
from types import SimpleNamespace

import pytest
import torch

from detection.engine.evaluating import Evaluation, table

RESULT = {"image_id": 1, "category_id": 2, "bbox": [0.0, 1.0, 2.0, 3.0], "score": 0.5}


class Evaluator:
    """Counts what it gets."""

    iou_types = ("bbox",)
    dropped = 2

    def __init__(self):
        self.added = 0

    def reset(self):
        self.added = 0

    def add(self, batch, detections):
        self.added += len(batch.images)

    def evaluate(self):
        return {"bbox/AP": 0.25, "bbox/AR100": 0.5}

    def beyond_limit(self, iou_type, remedy):
        return [f"{iou_type}: more than is scored"]

    def results(self, iou_type):
        return [RESULT]


def batch(images):
    return SimpleNamespace(images=torch.zeros(images, 3))


def losses(value):
    return {"loss_cls": torch.tensor(value), "loss_mask": torch.tensor(2 * value)}


@pytest.fixture
def evaluation():
    found = Evaluation("val", Evaluator())
    found.start()
    found.add(batch(1), None, losses(1.0))
    found.add(batch(3), None, losses(5.0))
    return found


def test_losses_are_means_over_images_not_over_batches(evaluation):
    assert evaluation.gather() == {"loss_cls": 4.0, "loss_mask": 8.0}
    assert evaluation.score(evaluation.gather()) == {
        "loss": 12.0, "loss_cls": 4.0, "loss_mask": 8.0, "bbox/AP": 0.25, "bbox/AR100": 0.5, "AP": 0.25,
    }  # fmt: skip


def test_the_next_evaluation_begins_empty(evaluation):
    evaluation.start()
    evaluation.add(batch(2), None, losses(3.0))
    assert evaluation.gather() == {"loss_cls": 3.0, "loss_mask": 6.0}
    assert evaluation.evaluator.added == 2


def test_without_annotations_there_are_no_losses():
    found = Evaluation("predict", Evaluator())
    found.start()
    found.add(batch(2), None)
    assert found.gather() == {}
    assert "loss" not in found.score({})


def test_images_beyond_the_limit_are_reported_once(evaluation):
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"), 0.5)
    metrics = {f"bbox/{name}": value for name, value in metrics.items()}
    first, again = (list(evaluation.report(metrics, "float32")) for _ in range(2))
    assert first[1:] == ["bbox: more than is scored", "Not scored, since NaN or infinite: 2 detections"]
    assert again[1:] == first[2:]


def test_results_are_written_and_named(evaluation, tmp_path):
    (path,) = evaluation.write_results(tmp_path)
    assert path == tmp_path / "results_bbox.json"
    assert json.loads(path.read_text()) == [RESULT]


def test_table_of_a_split():
    metrics = {f"bbox/{name}": 0.125 for name in ("AP", "AP50", "AP75", "APs", "APm", "AR100")}
    text = table(metrics | {"bbox/APl": float("nan"), "loss": 1.0, "loss_cls": 0.25}, "val", "bfloat16")
    assert text.splitlines() == [
        "val: COCO metrics in percent, computed in bfloat16",
        "             AP   AP50   AP75    APs    APm    APl  AR100",
        "bbox       12.5   12.5   12.5   12.5   12.5    n/a   12.5",
        "loss 1.000 loss_cls 0.250",
    ]
