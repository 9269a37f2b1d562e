"""hotcoco against pycocotools, bit for bit."""

import math
import multiprocessing
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.evaluation.engines import (
    STATISTICS,
    Evaluation,
    _with_area,
    choose,
    hotcoco,
    lvis_numbers,
    mean,
    score,
    summarize,
)
from detection.evaluation.ground_truth import clean_ground_truth

Problem = Callable[[int, str], tuple[dict[str, Any], list[dict[str, Any]]]]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_hotcoco_equals_pycocotools(problem: Problem, iou_type: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hotcoco")
    for seed in range(25):
        truth, results = problem(seed, iou_type)
        precision, recall = score("pycocotools", truth, [dict(r) for r in results], iou_type)
        fast_precision, fast_recall = score("hotcoco", truth, [dict(r) for r in results], iou_type)
        np.testing.assert_array_equal(fast_precision, precision)
        np.testing.assert_array_equal(fast_recall, recall)
        np.testing.assert_equal(summarize(fast_precision, fast_recall), summarize(precision, recall))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
def test_ground_truth_is_not_modified(problem: Problem, engine: str) -> None:
    if engine == "hotcoco":
        pytest.importorskip("hotcoco")
    truth, results = problem(0, "segm")
    before = repr(truth)
    score(engine, truth, results, "segm")
    assert repr(truth) == before


def test_hotcoco_does_not_hang_in_a_forked_process(problem: Problem) -> None:
    pytest.importorskip("hotcoco")
    truth, results = problem(0, "bbox")
    precision, _ = score("hotcoco", truth, [dict(r) for r in results], "bbox")

    def again() -> None:
        np.testing.assert_array_equal(score("hotcoco", truth, results, "bbox")[0], precision)

    process = multiprocessing.get_context("fork").Process(target=again)
    process.start()
    process.join(30)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()


def test_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("pycocotools") == "pycocotools"
    with pytest.raises(ValueError, match="engine is 'fast'"):
        choose("fast")
    monkeypatch.setattr("detection.evaluation.engines.find_spec", lambda name: None)
    assert choose("auto") == "pycocotools"
    with pytest.raises(ImportError, match="pip install hotcoco"):
        choose("hotcoco")


def test_lvis_counts_an_image_only_for_the_classes_that_are_known_in_it() -> None:
    pytest.importorskip("hotcoco")
    ground_truth = {
        "images": [
            {"id": 1, "height": 90, "width": 90, "neg_category_ids": [2], "not_exhaustive_category_ids": []},
            {"id": 2, "height": 90, "width": 90, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "categories": [{"id": 1, "name": "a", "frequency": "r"}, {"id": 2, "name": "b", "frequency": "f"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0, 0, 20, 20]},
        ],
    }
    truth = clean_ground_truth(ground_truth, masks=False)
    right = [{"image_id": i, "category_id": i, "bbox": [0, 0, 20, 20], "score": 0.5} for i in (1, 2)]
    unknown = {"image_id": 2, "category_id": 1, "bbox": [40, 40, 20, 20], "score": 0.9}  # nobody looked for it there
    absent = {"image_id": 1, "category_id": 2, "bbox": [40, 40, 20, 20], "score": 0.9}  # known not to be there
    numbers = lvis_numbers(truth, [*right, unknown], "bbox")
    assert numbers["APr"] == pytest.approx(1)
    assert numbers["APf"] == pytest.approx(1)
    assert math.isnan(numbers["APc"])
    assert lvis_numbers(truth, [*right, absent], "bbox")["APf"] == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="frequency"):
        lvis_numbers(truth | {"categories": [{"id": 1, "name": "a"}]}, [], "bbox")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_lvis_drops_what_has_no_area_after_the_limit_of_300(iou_type: str) -> None:
    """As lvis-api does: an object without area is nothing to find, and detections without one take places."""
    pytest.importorskip("hotcoco")
    frame = np.zeros((90, 90), dtype=np.uint8, order="F")
    empty = {"bbox": [50, 50, 0, 9], "segmentation": encode(frame)}
    frame[:20, :20] = 1
    object_ = {"bbox": [0, 0, 20, 20], "segmentation": encode(frame)}
    annotation = {"image_id": 1, "category_id": 1}
    truth = {
        "images": [{"id": 1, "height": 90, "width": 90, "neg_category_ids": [], "not_exhaustive_category_ids": []}],
        "categories": [{"id": 1, "name": "a", "frequency": "r"}],
        "annotations": [
            annotation | object_ | {"id": 1, "area": 400},
            annotation | empty | {"id": 2, "area": 0},
        ],
    }
    truth = clean_ground_truth(truth, masks=iou_type == "segm")
    key = {"bbox": "bbox", "segm": "segmentation"}[iou_type]
    right, nothing = ({"image_id": 1, "category_id": 1, key: form[key]} for form in (object_, empty))
    first = [nothing | {"score": 0.9}] * 299
    assert lvis_numbers(truth, [*first, right | {"score": 0.5}], iou_type)["AP"] == pytest.approx(1)
    first.append(nothing | {"score": 0.9})
    assert lvis_numbers(truth, [*first, right | {"score": 0.5}], iou_type)["AP"] == 0


def encode(frame: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(frame)
    return {"size": [*frame.shape], "counts": rle["counts"].decode()}


def test_each_statistic_has_its_part_of_the_arrays() -> None:
    random = np.random.default_rng(0)
    precision, recall = random.random((10, 101, 2, 4, 3)), random.random((10, 2, 4, 3))
    precision[:, :, 1, 3], recall[:, 1, 3] = -1, -1
    numbers = summarize(precision, recall)
    assert tuple(numbers) == STATISTICS
    assert numbers["AP"] == pytest.approx(precision[:, :, :, 0, 2].mean())
    assert numbers["AP50"] == pytest.approx(precision[0, :, :, 0, 2].mean())
    assert numbers["AP75"] == pytest.approx(precision[5, :, :, 0, 2].mean())
    assert numbers["APs"] == pytest.approx(precision[:, :, :, 1, 2].mean())
    assert numbers["APm"] == pytest.approx(precision[:, :, :, 2, 2].mean())
    assert numbers["APl"] == pytest.approx(precision[:, :, 0, 3, 2].mean())
    assert numbers["AR1"] == pytest.approx(recall[:, :, 0, 0].mean())
    assert numbers["AR10"] == pytest.approx(recall[:, :, 0, 1].mean())
    assert numbers["AR100"] == pytest.approx(recall[:, :, 0, 2].mean())
    assert numbers["ARs"] == pytest.approx(recall[:, :, 1, 2].mean())
    assert numbers["ARm"] == pytest.approx(recall[:, :, 2, 2].mean())
    assert numbers["ARl"] == pytest.approx(recall[:, 0, 3, 2].mean())


def test_the_mean_leaves_out_what_there_is_not() -> None:
    assert mean(np.array([0.0, 1.0, -1.0])) == 0.5
    assert math.isnan(mean(np.array([-1.0, -1.0])))


def test_the_best_three_hundred_of_an_image_count_then_those_with_an_area() -> None:
    results: list[dict[str, Any]] = [
        {"image_id": image, "score": k / 1000, "bbox": [0, 0, 1.0, 0.0 if k in (50, 200) else 0.5]}
        for image in (1, 2)
        for k in range(302)
    ]
    kept = _with_area(results, "bbox")
    assert [r["score"] for r in kept if r["image_id"] == 1] == [
        k / 1000 for k in range(301, 1, -1) if k not in (50, 200)
    ]
    assert len(kept) == 2 * 298
    masks = [{"counts": [4]}, {"counts": [3, 1]}]
    results = [
        {"image_id": 1, "score": 0.5, "segmentation": coco_mask.frPyObjects({"size": [2, 2], **m}, 2, 2)} for m in masks
    ]
    assert _with_area(results, "segm") == results[1:]


def test_diagnostics_are_those_at_an_iou_of_a_half() -> None:
    asked: list[dict[str, float]] = []

    class Engine:
        def __init__(self) -> None:
            self.eval: dict[str, list[float]] = {"precision": [], "recall": []}

        def image_diagnostics(self, **options: float) -> dict[str, Any]:
            asked.append(options)
            return {"img_summary": {1: "good"}, "label_errors": [{"image_id": 1}]}

    evaluation = Evaluation(Engine(), SimpleNamespace(image_ids=[77]), (1, 10, 100), "bbox")  # type: ignore[arg-type]
    assert evaluation.image_diagnostics() == {"img_summary": {77: "good"}, "label_errors": [{"image_id": 77}]}
    assert asked == [{"iou_thr": 0.5, "score_thr": 0.5}]


def test_without_hotcoco_the_message_says_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(ValueError, match=r"the report needs hotcoco \(.*\): pip install hotcoco"):
        hotcoco("the report")
