"""Intervals: the factor that widens hotcoco's, and metrics without an interval."""

import itertools
import math

import numpy as np
import pytest

from detection.evaluation.engines import hotcoco_evaluation
from detection.report.resampling import changes, widening

hotcoco = pytest.importorskip("hotcoco", reason="intervals are hotcoco's")


def make(images: int, found: int, areas: dict[int, float] | None = None) -> tuple[dict, list[dict]]:
    """An object in each image, of 400 pixels unless ``areas`` says something else; those of the first are found."""
    numbers = range(1, images + 1)
    truth = {
        "info": {},
        "images": [{"id": i, "width": 50, "height": 50} for i in numbers],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [5.0, 5.0, 20.0, 20.0], "iscrowd": 0}
            | {"area": (areas or {}).get(i, 400.0)}
            for i in numbers
        ],
    }
    box = {"category_id": 1, "bbox": [5.0, 5.0, 20.0, 20.0], "score": 0.9}
    return truth, [{"image_id": i} | box for i in range(1, found + 1)]


def evaluations(truth: dict, results: list[dict]) -> tuple:
    return hotcoco_evaluation(truth, [], "bbox"), hotcoco_evaluation(truth, results, "bbox")


def test_hotcoco_counts_an_image_that_is_drawn_twice_once():
    """If this fails, hotcoco draws with replacement now: leave the widening out."""
    first, second = evaluations(*make(3, found=1))
    recall = [
        np.mean([image == 0 for image in {*draw}]) for draw in itertools.product(range(3), repeat=3)
    ]  # of all 27 draws, each image once
    told = hotcoco.compare(first.engine, second.engine, n_bootstrap=5_000, seed=0)["ci"]["AR100"]["std_err"]
    assert told == pytest.approx(np.std(recall), rel=0.04)
    assert np.std(recall) == pytest.approx(0.2485, abs=1e-4)


@pytest.mark.parametrize(("images", "found"), [(3, 1), (40, 20)])
def test_the_error_of_a_share_is_that_of_draws_with_replacement(images, found):
    truth, results = make(images, found)
    share = found / images
    change = changes(truth, *evaluations(truth, results), resamplings=5_000, seed=0)["AR100"]
    assert change.error == pytest.approx(math.sqrt(share * (1 - share) / images), rel=0.04)  # binomial
    assert (change.first, change.second) == (0, pytest.approx(share))


def test_the_interval_is_as_wide_as_the_error_says():
    truth, results = make(100, found=50)
    change = changes(truth, *evaluations(truth, results), resamplings=2_000, seed=0)["AR100"]
    assert change.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01)
    assert change.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.01)


def test_widening():
    assert widening(3) == pytest.approx(math.sqrt(6 / 5))  # D is 1, 2, 3 in 3, 18, 6 of 27 draws: n E[1/D] = 14/9
    assert widening(5000) == pytest.approx(math.sqrt(math.e - 1), abs=1e-3)
    assert math.isnan(widening(1))


def test_no_interval_where_draws_miss_the_objects():
    # 40 images: four with a medium object are missed by (36/40)^40 = 1.5% of the draws, five by 0.5%.
    for medium, is_known in ((4, False), (5, True)):
        truth, results = make(40, 20, dict.fromkeys(range(1, medium + 1), 2000.0))
        found = changes(truth, *evaluations(truth, results), resamplings=50, seed=0)
        assert found["APm"].second == pytest.approx(1)
        assert [math.isnan(v) for v in (found["APm"].error, found["APm"].low, found["APm"].high)] == [not is_known] * 3
        large = found["APl"]
        assert all(map(math.isnan, (large.first, large.second, large.error, large.low, large.high)))
        assert found["AP"].low < found["AP"].second < found["AP"].high


def test_without_draws_there_are_only_the_numbers():
    truth, results = make(4, found=2)
    change = changes(truth, *evaluations(truth, results), resamplings=0, seed=0)["AR1"]
    assert change.second == 0.5
    assert all(map(math.isnan, (change.error, change.low, change.high)))
