import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from detection.evaluation.coco import CocoEvaluator
from detection.report.analysis import ERRORS, Analysis, Measure, analyse


@pytest.fixture(scope="module")
def analysis(evaluator: CocoEvaluator) -> Analysis:
    return analyse(evaluator, "bbox", resamplings=50)


def matches(truth: dict, results: list[dict], threshold: float) -> tuple[int, int, int]:
    """Plain: found, missed and wrong at IoU 0.5 of the detections that reach the threshold, best first."""
    found = wrong = 0
    for image in truth["images"]:
        for category in (2, 5):
            objects = [a for a in truth["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category)]
            mine = [r for r in results if (r["image_id"], r["category_id"]) == (image["id"], category)]
            free = [a["bbox"] for a in objects]
            for one in sorted((r for r in mine if r["score"] >= threshold), key=lambda r: -r["score"]):
                overlaps = [overlap(one["bbox"], box) for box in free]
                if overlaps and max(overlaps) >= 0.5:
                    free.pop(int(np.argmax(overlaps)))
                    found += 1
                else:
                    wrong += 1
    return found, len(truth["annotations"]) - found, wrong


def overlap(a: list[float], b: list[float]) -> float:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def test_the_numbers_are_those_of_the_evaluator(analysis, evaluator):
    for name, value in evaluator.evaluate().items():
        mine = analysis.numbers[name.removeprefix("bbox/")].value
        assert mine == value or (math.isnan(mine) and math.isnan(value))
    rows = {row["name"]: row for row in evaluator.per_class("bbox")}
    for row in analysis.classes:
        assert row.objects == rows[row.name]["count"]
        assert rows[row.name]["AP"] == row.AP or row.objects == 0


def test_the_operating_point_is_the_best_of_all_thresholds(analysis, truth, results):
    best = (0.0, 0.0)
    for threshold in sorted({r["score"] for r in results}):
        found, missed, wrong = matches(truth, results, threshold)
        best = max(best, (2 * found / (2 * found + missed + wrong), threshold))
    point = analysis.operating_point
    assert point["F1"] == pytest.approx(best[0])
    assert point["threshold"] == pytest.approx(best[1])
    found, missed, wrong = matches(truth, results, point["threshold"])
    assert point["precision"] == pytest.approx(found / (found + wrong))
    assert point["recall"] == pytest.approx(found / (found + missed))


def test_the_best_cut_of_a_class_is_the_best_of_all_thresholds(analysis, truth, results):
    for row, category in zip(analysis.classes[:2], (2, 5), strict=True):
        mine = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] == category]}
        found_of = [r for r in results if r["category_id"] == category]
        best = (0.0, 0.0)
        for threshold in sorted({r["score"] for r in found_of}):
            found, missed, wrong = matches(mine, found_of, threshold)
            best = max(best, (2 * found / (2 * found + missed + wrong), threshold))
        assert (row.F1, row.threshold) == pytest.approx(best)
    assert math.isnan(analysis.classes[2].F1)  # no object
    assert math.isnan(analysis.classes[2].threshold)


def test_what_is_found_in_a_crowd_is_neither_confused_nor_suspect():
    crowd = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 150, 150], "area": 22500, "iscrowd": 1}
    person = {"id": 2, "image_id": 1, "category_id": 1, "bbox": [160, 160, 30, 30], "area": 900, "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [crowd, person],
    }
    result = {"image_id": 1, "category_id": 1}
    evaluator = CocoEvaluator(truth, ["bbox"], image_ids="all")
    evaluator.add_results(
        [result | {"bbox": [20.0 * k, 10, 20, 40], "score": 0.9} for k in range(6)]
        + [result | {"bbox": person["bbox"], "score": 0.5}]
    )
    analysis = analyse(evaluator, "bbox", resamplings=0)
    assert analysis.confusion == [[1, 0], [0, 0]]
    assert analysis.suspects == []
    assert analysis.operating_point["F1"] == 1


def test_two_classes_of_one_name_have_two_curves(truth, results):
    names = [{"id": 2, "name": "cat"}, {"id": 5, "name": "cat"}, {"id": 9, "name": "bird"}]
    evaluator = CocoEvaluator({**truth, "categories": names}, ["bbox"], image_ids="all")
    evaluator.add_results(results)
    assert [*analyse(evaluator, "bbox", resamplings=0).class_curves] == ["cat (2)", "cat (5)"]


def test_matrix_images_and_point_count_the_same(analysis, truth, results):
    found, missed, wrong = matches(truth, results, analysis.operating_point["threshold"])
    rows = analysis.by_image
    assert len(rows) == len(truth["images"])
    assert (sum(r.found for r in rows), sum(r.missed for r in rows)) == (found, missed)
    assert sum(r.wrong for r in rows) == wrong
    assert [row.F1 for row in rows] == sorted(row.F1 for row in rows)
    matrix = np.array(analysis.confusion)
    assert matrix.shape == (4, 4)
    assert matrix[:3].sum() == len(truth["annotations"])
    assert np.trace(matrix) == found
    # Every seventh detection was given the other class.
    assert matrix[0, 1] > 0
    assert matrix[1, 0] > 0


def test_calibration_is_the_share_that_is_right(analysis, truth, results):
    bins = analysis.calibration["bins"]
    assert sum(b["count"] for b in bins) == len(results)
    found, _, wrong = matches(truth, results, 0.0)
    right = sum(b["right"] * b["count"] for b in bins)
    assert right == pytest.approx(found)
    expected = sum(abs(b["score"] - b["right"]) * b["count"] for b in bins) / (found + wrong)
    assert analysis.calibration["error"] == pytest.approx(expected)


def test_errors_name_what_is_wrong(analysis):
    assert set(analysis.errors) == set(ERRORS)
    assert analysis.error_counts["Cls"] > 0
    assert analysis.errors["Cls"] > analysis.errors["Dupe"]


def test_crowding(analysis, truth):
    counts = Counter(a["image_id"] for a in truth["annotations"])
    several = sum(count > 1 for count in counts.values())
    assert {row["objects"]: row["images"] for row in analysis.by_crowding} == {
        "1": len(counts) - several,
        "2 to 5": several,
    }


def test_intervals_hold_the_number_and_shrink_with_more_images(evaluator, truth, results):
    small = analyse(evaluator, "bbox", resamplings=200).numbers["AP"]
    low, high = small.interval
    assert 0 <= low < small.value < high <= 1
    # The same images four times over: half the error.
    images, annotations, found = [], [], []
    for k in range(4):
        images += [i | {"id": i["id"] + 100 * k} for i in truth["images"]]
        annotations += [a | {"image_id": a["image_id"] + 100 * k} for a in truth["annotations"]]
        found += [r | {"image_id": r["image_id"] + 100 * k} for r in results]
    large = CocoEvaluator({**truth, "images": images, "annotations": annotations}, ["bbox"], image_ids="all")
    large.add_results(found)
    assert analyse(large, "bbox", resamplings=200).numbers["AP"].error == pytest.approx(small.error / 2, rel=0.35)
    assert Measure(0.99, 0.1).interval[1] == 1.0


def test_a_number_of_nothing_has_no_interval(analysis):
    large = analysis.numbers["APl"]
    assert all(map(math.isnan, (large.value, large.error, *large.interval)))


def test_a_detector_that_finds_nothing(truth):
    evaluator = CocoEvaluator(truth, ["bbox"], image_ids="all")
    analysis = analyse(evaluator, "bbox", resamplings=10)
    assert analysis.numbers["AP"].value == 0
    assert analysis.operating_point["F1"] == 0
    assert analysis.errors["Miss"] >= 0
    assert sum(row.missed for row in analysis.by_image) == len(truth["annotations"])


def test_no_images(truth):
    with pytest.raises(ValueError, match="no image was evaluated"):
        analyse(CocoEvaluator(truth, ["bbox"]), "bbox")


def test_what_is_sure_and_contradicts_the_annotations_is_suspect(truth, results):
    first = truth["annotations"][0]
    sure = [
        {**{k: first[k] for k in ("image_id", "bbox")}, "category_id": 7 - first["category_id"], "score": 0.99},
        {"image_id": 5, "category_id": 9, "bbox": [1.0, 1.0, 30.0, 30.0], "score": 0.95},
    ]
    evaluator = CocoEvaluator(truth, ["bbox"], image_ids="all")
    evaluator.add_results([*sure, *({**one, "score": 0.3} for one in results)])
    suspects = analyse(evaluator, "bbox", resamplings=0).suspects
    names = {2: "cat", 5: "dog"}
    assert suspects[0].kind == "another class is annotated"
    assert suspects[0].annotated == names[first["category_id"]]
    assert suspects[0].detected == names[7 - first["category_id"]]
    assert suspects[0].box == pytest.approx(first["bbox"])
    assert suspects[1].kind == "nothing is annotated"
    assert (suspects[1].image_id, suspects[1].detected) == (5, "<bird>")


def test_ids_of_63_bits_change_the_ids_alone(truth, results, evaluator):
    """hotcoco holds image ids as float64: an analysis by them would find nothing."""
    images = {image["id"]: 2**62 + 2 * image["id"] for image in truth["images"]}
    categories = {category["id"]: category["id"] - 2**60 for category in truth["categories"]}

    def other(entries):
        return [e | {"image_id": images[e["image_id"]], "category_id": categories[e["category_id"]]} for e in entries]

    renamed = truth | {
        "images": [image | {"id": images[image["id"]]} for image in truth["images"]],
        "categories": [category | {"id": categories[category["id"]]} for category in truth["categories"]],
        "annotations": other(truth["annotations"]),
    }
    large = CocoEvaluator(renamed, ["bbox"], image_ids="all")
    large.add_results(other(results))
    ours, theirs = (asdict(analyse(one, "bbox", resamplings=10)) for one in (large, evaluator))
    for rows, ids, key in (
        ("by_image", images, "image_id"),
        ("suspects", images, "image_id"),
        ("classes", categories, "id"),
    ):
        theirs[rows] = [row | {key: ids[row[key]]} for row in theirs[rows]]
    assert theirs["by_image"]
    np.testing.assert_equal(ours, theirs)
