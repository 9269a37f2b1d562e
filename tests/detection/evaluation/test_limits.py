"""More objects and detections in an image than COCO counts."""

from typing import Any

import pytest

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.limits import beyond_limit, checked_limits, limit_lines, limits_up_to, scored_limits


def crowded(objects: int, classes: int = 1) -> dict[str, Any]:
    """One image full of separate objects of 18 x 18 pixels, of each class in turn."""
    return {
        "images": [{"id": 7, "height": 400, "width": 1000, "file_name": "a.png"}],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {
                "id": k + 1,
                "image_id": 7,
                "category_id": k % classes + 1,
                "bbox": [k % 50 * 20.0, k // 50 * 20.0, 18.0, 18.0],
                "area": 324.0,
                "iscrowd": 0,
            }
            for k in range(objects)
        ],
    }


def found_perfectly(truth: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox")
    return [{key: a[key] for key in keys} | {"score": 1 - a["id"] / 1000} for a in truth["annotations"]]


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_two_hundred_objects_found_perfectly(engine: str) -> None:
    pytest.importorskip(engine)
    truth = crowded(200)
    evaluators = [
        CocoEvaluator(truth, ["bbox"], engine, "all"),
        CocoEvaluator(truth, ["bbox"], engine, "all", max_detections=(1, 10, 300)),
    ]
    for evaluator in evaluators:
        evaluator.add_results(found_perfectly(truth))
    few, all_ = (evaluator.evaluate() for evaluator in evaluators)
    # Half of them are found, with precision 1 at the recalls 0, 0.01, ..., 0.5.
    assert few["bbox/AP"] == pytest.approx(51 / 101)
    assert few["bbox/AR100"] == pytest.approx(0.5)
    assert all_["bbox/AP"] == all_["bbox/AP50"] == all_["bbox/APs"] == all_["bbox/AR300"] == 1
    assert all_["bbox/AR10"] == pytest.approx(10 / 200)
    assert "bbox/AR100" not in all_
    assert evaluators[1].per_class()[0]["AP"] == 1


def test_what_is_beyond_the_limit_is_counted() -> None:
    truth = crowded(200)
    evaluator = CocoEvaluator(truth, ["bbox"], "pycocotools", "all")
    evaluator.add_results(found_perfectly(truth)[:150])
    objects, found = evaluator.beyond_limit("bbox", "--max-dets {most}")
    assert objects == (
        "bbox: 1 image has more than 100 objects of one class (at most 200), but only the best 100 detections of a "
        "class are scored; to score more: --max-dets 200"
    )
    assert found.startswith("bbox: 1 image has more than 100 detections of one class (at most 150)")
    assert CocoEvaluator(truth, ["bbox"], image_ids="all", max_detections=(1, 10, 200)).beyond_limit("bbox", "") == []


def test_the_limit_is_that_of_a_class_and_crowds_do_not_count() -> None:
    assert beyond_limit(crowded(200, classes=2)["annotations"], 100) == (0, 100)
    assert beyond_limit(crowded(202, classes=2)["annotations"], 100) == (1, 101)
    assert beyond_limit([{"image_id": 1, "category_id": 1, "iscrowd": 1}] * 101, 100) == (0, 0)
    assert beyond_limit([], 100) == (0, 0)


def test_the_limits_are_three_that_rise() -> None:
    assert limits_up_to(300) == (1, 10, 300)
    with pytest.raises(ValueError, match="must be above 10"):
        limits_up_to(10)
    for wrong in ((1, 10), (1, 10, 100, 300), (1, 100, 10), (0, 10, 100), (1, 10, 100.0), (1, 10, 10)):
        with pytest.raises(ValueError, match="three increasing integers"):
            checked_limits(wrong)  # type: ignore[arg-type]


def test_the_smallest_limits() -> None:
    assert limits_up_to(11) == (1, 10, 11)
    assert checked_limits([1, 2, 3]) == (1, 2, 3)
    for wrong in ((1, 1, 2), (1, 2, 2), (-1, 2, 3), (True, 2, 3)):
        with pytest.raises(ValueError, match=r"max_detections is .*, but must be three increasing integers"):
            checked_limits(wrong)


def test_images_beyond_the_limit_are_told_with_their_number() -> None:
    assert limit_lines("segm", (0, 100), (0, 100), 100, "") == []
    objects, found = limit_lines("segm", (2, 150), (1, 101), 100, "set {most}")
    assert objects == (
        "segm: 2 images have more than 100 objects of one class (at most 150), but only the best 100 detections of a "
        "class are scored; to score more: set 150"
    )
    assert found == (
        "segm: 1 image has more than 100 detections of one class (at most 101); those after the best 100 are not scored"
    )
    assert limit_lines("bbox", (0, 5), (3, 101), 100, "") == [found.replace("segm: 1 image has", "bbox: 3 images have")]


def test_keypoints_have_one_limit() -> None:
    assert scored_limits((1, 10, 100), "keypoints") == (20,)
    assert scored_limits((1, 10, 50), "keypoints") == (50,)
    assert scored_limits((1, 10, 100), "bbox") == scored_limits((1, 10, 100), "segm") == (1, 10, 100)
