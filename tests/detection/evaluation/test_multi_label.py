"""Scores of images with several classes equal those of plain loops, in one process and in several."""

import math

import numpy as np
import pytest
import torch

from detection.evaluation.multi_label import MultiLabelEvaluator, average_precisions, best_f1


def drawn(count=50, classes=4, seed=0):
    """Rounded logits with ties, classes of which the last has no image, and losses."""
    torch.manual_seed(seed)
    present = torch.rand(count, classes) < torch.tensor([0.5, 0.3, 0.1, 0.0])[:classes]
    logits = (2 * torch.randn(count, classes) + 2 * present).round() / 2
    return torch.arange(count), present, logits, torch.rand(count)


def collect(*parts):
    evaluator = MultiLabelEvaluator(["a", "b", "c", "d"])
    for part in parts:
        evaluator.add(*part)
    return evaluator


def loop_of_average_precision(scores, present):
    """The sum over distinct scores, from the highest, of precision times the gain of recall."""
    total, before, found = sum(present), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [p for s, p in zip(scores, present, strict=True) if s >= threshold]
        recall, precision = sum(taken) / total, sum(taken) / len(taken)
        found, before = found + (recall - before) * precision, recall
    return found


def test_scores_equal_those_of_loops():
    _, present, logits, losses = data = drawn()
    evaluator = collect(*(tuple(column[start : start + 16] for column in data) for start in range(0, 50, 16)))
    scores = logits.sigmoid().numpy()
    expected = [loop_of_average_precision(scores[:, k].tolist(), present[:, k].tolist()) for k in range(3)]
    found, report = evaluator.evaluate(), evaluator.report()
    assert [row["AP"] for row in report["classes"]] == [*(pytest.approx(value) for value in expected), None]
    assert found["mAP"] == pytest.approx(sum(expected) / 3)
    assert found["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    right = wrong = missed = exact = 0
    of_classes = [[0, 0, 0] for _ in range(4)]
    for truth, row in zip(present.tolist(), logits.tolist(), strict=True):
        marks = [value >= 0 for value in row]
        exact += marks == truth
        for k, (mark, true) in enumerate(zip(marks, truth, strict=True)):
            counts = of_classes[k]
            counts[0], counts[1], counts[2] = (
                counts[0] + (mark and true),
                counts[1] + (mark and not true),
                counts[2] + (true and not mark),
            )
    right, wrong, missed = (sum(counts[place] for counts in of_classes) for place in range(3))
    assert found["F1"] == pytest.approx(2 * right / (2 * right + wrong + missed))
    assert found["exact"] == pytest.approx(exact / 50)
    each = [2 * r / (2 * r + w + m) for r, w, m in of_classes[:3]]
    assert found["class_mean_F1"] == pytest.approx(sum(each) / 3)
    first = report["classes"][0]
    assert first["precision"] == pytest.approx(of_classes[0][0] / (of_classes[0][0] + of_classes[0][1]))
    assert first["recall"] == pytest.approx(of_classes[0][0] / (of_classes[0][0] + of_classes[0][2]))
    assert report["classes"][3]["recall"] is None


def test_the_best_threshold_has_the_largest_f1():
    _, present, logits, _ = drawn()
    scores, truth = logits[:, 0].sigmoid().numpy(), present[:, 0].numpy()
    found = [
        (2 * (truth & (scores >= t)).sum() / (truth.sum() + (scores >= t).sum()), float(t)) for t in np.unique(scores)
    ]
    assert best_f1(scores, truth) == pytest.approx(max(found))
    assert math.isnan(best_f1(scores, np.zeros(50, bool))[0])


def test_perfect_and_reversed_rankings():
    present = np.array([[1], [1], [0], [0]], bool)
    assert average_precisions(np.array([[4.0], [3], [2], [1]]), present).tolist() == [1.0]
    assert average_precisions(np.array([[1.0], [2], [3], [4]]), present).tolist() == [
        pytest.approx((1 / 3 + 2 / 4) / 2)
    ]
    assert average_precisions(np.zeros((4, 1)), present).tolist() == [0.5]  # ties count together


def test_several_processes_count_each_image_once():
    data = drawn()
    alone = collect(data)
    first, second = (collect(tuple(column[part] for column in data)) for part in (slice(0, 30), slice(25, 50)))
    merged = MultiLabelEvaluator(alone.classes)
    merged.merge([first.state(), second.state()])
    assert merged.evaluate() == pytest.approx(alone.evaluate())


def test_without_images_there_is_no_score():
    evaluator = collect(drawn())
    evaluator.merge([[], []])
    assert all(math.isnan(value) for value in evaluator.evaluate().values())
    report = evaluator.report()
    assert (report["images"], report["metrics"]["mAP"], report["calibration"]) == (0, None, {"error": None, "bins": []})


def test_a_report_by_hand():
    evaluator = MultiLabelEvaluator("abc")
    present = torch.tensor([[True, False, False], [False, True, False], [True, True, False]])
    scores = torch.tensor([[0.5, 0.25, 0.6], [0.6, 0.9, 0.4], [0.4, 0.8, 0.1]])
    evaluator.add(torch.arange(3), present, scores.double().logit(), torch.zeros(3))
    report = evaluator.report()
    assert (report["images"], report["threshold"]) == (3, 0.5)
    numbers = [
        [row[key] for key in ("images", "predicted", "precision", "recall", "F1", "AP")] for row in report["classes"]
    ]
    assert numbers[0] == [2, 2, 1 / 2, 1 / 2, 1 / 2, pytest.approx(1 / 2 * 1 / 2 + 1 / 2 * 2 / 3)]
    assert numbers[1] == [2, 2, 1, 1, 1, 1]
    assert numbers[2] == [0, 1, 0, None, None, None]
    best = [(row["best_F1"], row["best_threshold"]) for row in report["classes"]]
    assert best[0] == (pytest.approx(4 / 5), pytest.approx(0.4))
    assert best[1] == (1, pytest.approx(0.8))
    assert best[2] == (None, None)
