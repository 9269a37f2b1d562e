"""Score thresholds by F1, precision and recall, against a loop over all thresholds; and the temperature of scores."""

import numpy as np
import pytest

from detection.report.operating import ClassDetections, Rule, choose, parse_rule, temperature


def detections(seed=0, n=60, images=12):
    generator = np.random.default_rng(seed)
    scores = np.sort(generator.uniform(size=n).round(2))[::-1]  # some are equal
    right = (generator.uniform(size=n) < scores).astype(int)
    where = generator.integers(images, size=n)
    return ClassDetections(scores, right, where, np.bincount(where, right, images) + 1)


def at(found, threshold):
    """Precision, recall and F1 of the detections with at least this score."""
    kept = found.scores >= threshold
    right, objects = int(found.right[kept].sum()), found.objects.sum()
    return right / max(kept.sum(), 1), right / objects, 2 * right / (kept.sum() + objects)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_f1_of_all_thresholds(seed):
    found = detections(seed)
    point = choose(Rule("best-f1"), found)
    assert at(found, point.threshold)[2] == pytest.approx(max(at(found, score)[2] for score in found.scores))
    assert at(found, point.threshold)[:2] == pytest.approx((point.precision, point.recall))
    assert point.threshold not in found.scores  # between two scores


@pytest.mark.parametrize("wanted", [0.5, 0.7, 0.9])
def test_the_smallest_threshold_with_a_precision_and_the_largest_with_a_recall(wanted):
    found = detections()
    good = [score for score in found.scores if at(found, score)[0] >= wanted]
    point = choose(Rule("precision", wanted), found)
    assert point.reached
    assert at(found, point.threshold) == at(found, min(good))
    low = choose(Rule("recall", wanted / 2), found)
    assert at(found, low.threshold) == at(found, max(s for s in found.scores if at(found, s)[1] >= wanted / 2))


def test_what_the_data_do_not_reach_is_said():
    found = detections()
    point = choose(Rule("recall", 1.0), found)
    assert not point.reached
    assert point.recall == at(found, 0)[1]


def test_intervals_hold_the_value_and_shrink_with_more_images():
    few, many = (choose(Rule("best-f1"), detections(1, n, images)) for n, images in ((60, 12), (6000, 1200)))
    for point in (few, many):
        assert point.threshold_interval[0] <= point.threshold <= point.threshold_interval[1]
        assert point.recall_interval[0] <= point.recall <= point.recall_interval[1]
    assert np.ptp(many.precision_interval) < np.ptp(few.precision_interval) / 3
    assert np.isnan(choose(Rule("best-f1"), detections(), resamplings=0).threshold_interval[0])


def test_a_class_without_objects_or_without_a_true_positive_has_no_threshold():
    none = np.zeros(0)
    assert choose(Rule("best-f1"), ClassDetections(none, none, none.astype(int), np.zeros(3))) is None
    wrong = ClassDetections(np.array([0.9]), np.array([0]), np.array([0]), np.array([1.0]))
    assert choose(Rule("best-f1"), wrong) is None


def test_a_rule_is_read_and_printed():
    assert [str(parse_rule(text)) for text in ("best-f1", "precision=0.9", "recall=1")] == [
        "best-f1",
        "precision=0.9",
        "recall=1",
    ]
    for text in ("f1", "precision", "recall=0", "precision=1.1", "recall=nan", "=0.5", ""):
        with pytest.raises(ValueError, match=r"--set-thresholds .*give best-f1, precision=NUMBER"):
            parse_rule(text)


def test_the_temperature_restores_scores_that_are_too_sure():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=20000)
    right = (generator.uniform(size=20000) < 1 / (1 + np.exp(-logits))).astype(int)
    for factor in (0.5, 1.0, 3.0):
        scores = 1 / (1 + np.exp(-factor * logits))
        assert temperature(scores.tolist(), right.tolist()) == pytest.approx(factor, rel=0.05)
