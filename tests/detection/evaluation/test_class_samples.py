"""Scores on bootstrap samples of images: by hand, at their limits, and without images."""

import math

import numpy as np
import pytest

from detection.evaluation.class_samples import OneClass, SeveralClasses, draws, spread

PRESENT = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
SCORES = np.array([[0.5, 0.4, 0.1], [0.6, 0.9, 0.7], [0.9, 0.1, 0.4]])


class Fixed:
    """One class whose score is NaN for the first ``unknown`` samples, then 0 and 1 in turns."""

    def __init__(self, unknown):
        self.unknown, self.asked = unknown, 0

    def __len__(self):
        return 4

    def numbers(self, weights):
        return {"score": float(weights[0])}

    def per_class(self, weights):
        self.asked += 1
        return np.array([math.nan if self.asked <= self.unknown else float(self.asked % 2)])


def test_accuracies_count_an_image_as_often_as_it_was_drawn():
    judged = OneClass(np.array([0, 0, 1, 1]), np.array([1, 5, 1, 6]), 6)
    weights = np.array([1.0, 2, 1, 4])
    assert judged.numbers(weights) == pytest.approx({"top1": 2 / 8, "class_mean": (1 / 3 + 1 / 5) / 2, "top5": 4 / 8})
    with np.errstate(all="raise"):
        found = judged.per_class(weights)
        alone = judged.per_class(np.array([1.0, 0, 0, 0]))
    assert found[:2] == pytest.approx([1 / 3, 1 / 5])
    assert np.isnan(found[2:]).all()
    assert alone[0] == 1
    assert np.isnan(alone[1])
    assert len(judged) == 4


def test_five_classes_have_no_top_5():
    assert OneClass(np.array([0]), np.array([1]), 5).numbers(np.ones(1)) == {"top1": 1, "class_mean": 1}


def test_scores_of_several_classes_count_an_image_as_often_as_it_was_drawn():
    judged, weights = SeveralClasses(PRESENT, SCORES), np.array([1.0, 2, 0])
    # At 0.5 the first image has class 0 alone; the second, drawn twice, has all three instead of class 1.
    assert judged.numbers(weights) == pytest.approx({
        "mAP": (1 / 3 + 1) / 2,
        "F1": 2 * 3 / (3 + 7),
        "class_mean_F1": (2 / 4 + 1) / 2,
        "exact": 1 / 3,
    })  # fmt: skip
    assert judged.per_class(weights)[:2] == pytest.approx([1 / 3, 1])
    assert np.isnan(judged.per_class(weights)[2])
    assert len(judged) == 3


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_images_without_classes_have_no_mean_over_classes():
    found = SeveralClasses(np.zeros((2, 3), bool), SCORES[:2]).numbers(np.ones(2))
    assert math.isnan(found["mAP"])
    assert math.isnan(found["class_mean_F1"])
    assert found["F1"] == 0


def test_a_sample_has_as_many_images_and_its_seed_makes_it():
    first, second = draws(5, 2, seed=3)
    generator = np.random.default_rng(3)
    for weights in (first, second):
        assert weights.tolist() == [float(n) for n in np.bincount(generator.integers(5, size=5), minlength=5)]
        assert weights.dtype == np.float64
    assert [one.tolist() for one in draws(9, 2)] == [one.tolist() for one in draws(9, 2, seed=0)]
    assert not list(draws(5, 0))


def test_the_spread_is_the_deviation_over_the_samples():
    judged = OneClass(np.array([0, 0, 0, 1, 1]), np.array([1, 2, 1, 1, 3]), 2)
    errors, classes = spread(judged, 4, seed=1)
    samples = [judged.numbers(weights) for weights in draws(5, 4, seed=1)]
    columns = np.array([judged.per_class(weights) for weights in draws(5, 4, seed=1)])
    assert errors == {name: pytest.approx(np.std([one[name] for one in samples], ddof=1)) for name in samples[0]}
    assert classes == pytest.approx(columns.std(axis=0, ddof=1))
    again = spread(judged, 4)
    assert again[0] == spread(judged, 4, seed=0)[0] != errors


def test_a_spread_needs_two_samples():
    errors, classes = spread(OneClass(np.array([0, 1]), np.array([1, 2]), 3), 1)
    assert list(errors) == ["top1", "class_mean"]
    assert all(math.isnan(value) for value in errors.values())
    assert classes.shape == (3,)
    assert np.isnan(classes).all()
    assert math.isfinite(spread(Fixed(0), 2)[0]["score"])


@pytest.mark.parametrize(("unknown", "known"), [(0, True), (1, True), (2, False)])
def test_a_class_may_have_no_score_in_one_of_a_hundred_samples(unknown, known):
    errors, classes = spread(Fixed(unknown), 100)
    assert math.isfinite(errors["score"])
    assert np.isfinite(classes).tolist() == [known]
    if known:
        values = [float(n % 2) for n in range(1 + unknown, 101)]
        assert classes[0] == pytest.approx(np.std(values, ddof=1))
