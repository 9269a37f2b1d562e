"""Scores of classifiers equal those of a plain loop, in one process and in several."""

import math

import numpy as np
import pytest
import torch

from detection.evaluation.classification import ClassificationEvaluator


def drawn(count, classes, seed=0):
    """Logits that are often right, labels without the last class, and losses."""
    torch.manual_seed(seed)
    labels = torch.randint(0, classes - 1, (count,))
    logits = torch.randn(count, classes) + 1.5 * torch.nn.functional.one_hot(labels, classes)
    return torch.arange(count), labels, logits, torch.rand(count)


def collect(classes, *parts):
    evaluator = ClassificationEvaluator([f"c{n}" for n in range(classes)])
    for part in parts:
        evaluator.add(*part)
    return evaluator


@pytest.mark.parametrize("classes", [3, 8])
def test_scores_equal_those_of_a_loop(classes):
    _, labels, logits, losses = data = drawn(60, classes)
    batches = [tuple(column[start : start + 16] for column in data) for start in range(0, 60, 16)]
    evaluator = collect(classes, *batches)
    confusion, first, fifth = np.zeros((classes, classes), int), 0, 0
    for label, row in zip(labels.tolist(), logits.tolist(), strict=True):
        order = sorted(range(classes), key=lambda c: -row[c])
        confusion[label, order[0]] += 1
        first, fifth = first + (order[0] == label), fifth + (label in order[:5])
    accuracies = [confusion[c, c] / confusion[c].sum() for c in range(classes) if confusion[c].sum()]
    found = evaluator.evaluate()
    assert found["top1"] == pytest.approx(first / 60)
    assert found["class_mean"] == pytest.approx(sum(accuracies) / len(accuracies))
    assert found["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert found.get("top5", "none") == (pytest.approx(fifth / 60) if classes > 5 else "none")
    assert (evaluator.confusion() == confusion).all()
    report = evaluator.report()
    assert report["classes"][-1] == {
        "name": f"c{classes - 1}",
        "images": 0,
        "predicted": int(confusion[:, -1].sum()),
        "accuracy": None,
    }


def test_several_processes_count_each_image_once():
    data = drawn(30, 7)
    alone = collect(7, data)
    first, second = (collect(7, tuple(column[part] for column in data)) for part in (slice(0, 20), slice(15, 30)))
    merged = ClassificationEvaluator(alone.classes)
    merged.merge([first.state(), second.state()])
    assert (merged.confusion() == alone.confusion()).all()
    assert merged.evaluate() == pytest.approx(alone.evaluate())


def test_without_images_there_is_no_score():
    evaluator = collect(6, drawn(4, 6))
    evaluator.reset()
    assert all(math.isnan(value) for value in evaluator.evaluate().values())
    assert evaluator.report()["metrics"]["top1"] is None


def test_processes_without_images_give_no_scores():
    evaluator = collect(7)
    evaluator.merge([[], []])
    assert math.isnan(evaluator.evaluate()["top1"])
    assert evaluator.report()["calibration"] == {"error": None, "bins": []}
    evaluator.merge([collect(7, drawn(5, 7)).state(), []])
    assert evaluator.report()["images"] == 5


def test_calibration_equals_that_of_a_loop():
    _, labels, logits, _ = data = drawn(300, 4)
    bins = {}
    for label, row in zip(labels.tolist(), logits.softmax(dim=1), strict=True):
        confidence, best = max((float(value), place) for place, value in enumerate(row))
        bins.setdefault(min(int(confidence * 15), 14), []).append((confidence, best == label))
    parts = [(len(rows), *np.mean(rows, axis=0)) for _, rows in sorted(bins.items())]
    found = collect(4, data).calibration()
    error = sum(count * abs(confidence - accuracy) for count, confidence, accuracy in parts) / 300
    assert found["error"] == pytest.approx(error, abs=1e-6)
    assert [(row["images"], row["confidence"], row["accuracy"]) for row in found["bins"]] == [
        pytest.approx(part, abs=1e-6) for part in parts
    ]
    assert all(row["from"] <= row["confidence"] <= row["to"] for row in found["bins"])


def test_a_classifier_that_knows_its_accuracy_is_calibrated():
    labels = torch.zeros(1000, dtype=torch.long)
    labels[:250] = 1
    logits = torch.tensor([0.75, 0.25]).log().expand(1000, 2)
    found = collect(2, (torch.arange(1000), labels, logits, torch.zeros(1000))).calibration()
    assert found["error"] == pytest.approx(0, abs=1e-6)
    sure = collect(2, (torch.arange(1000), labels, 100 * logits, torch.zeros(1000))).calibration()
    assert sure["error"] == pytest.approx(0.25, abs=1e-6)
    assert sure["bins"][-1]["to"] == 1.0
