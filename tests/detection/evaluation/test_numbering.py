"""IDs of 63 bits and negative IDs change no metric with any engine, and results keep them."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import lvis_numbers, score
from detection.evaluation.ground_truth import clean_ground_truth
from detection.evaluation.numbering import Numbering
from detection.evaluation.results import read_results, write_results

IDS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(2**53, 2**53 + 20), st.integers(-20, 20))
PROPERTY = settings(max_examples=8, deadline=None, derandomize=True)


def other_ids(data: Any, truth: dict[str, Any]) -> tuple[dict[int, int], dict[int, int]]:
    """New ids of images and categories, in the order of the old ones."""
    return tuple(  # type: ignore[return-value]
        dict(
            zip(
                sorted(old),
                sorted(data.draw(st.lists(IDS, min_size=len(old), max_size=len(old), unique=True))),
                strict=True,
            )
        )
        for old in ([one["id"] for one in truth[key]] for key in ("images", "categories"))
    )


def renamed(entries: list[dict[str, Any]], images: dict[int, int], categories: dict[int, int]) -> list[dict[str, Any]]:
    return [
        one | {"image_id": images[one["image_id"]], "category_id": categories[one["category_id"]]} for one in entries
    ]


def renamed_truth(truth: dict[str, Any], images: dict[int, int], categories: dict[int, int]) -> dict[str, Any]:
    return truth | {
        "images": [one | {"id": images[one["id"]]} for one in truth["images"]],
        "categories": [one | {"id": categories[one["id"]]} for one in truth["categories"]],
        "annotations": renamed(truth["annotations"], images, categories),
    }


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_ids_change_no_bit(problem: Any, engine: str, iou_type: str) -> None:
    pytest.importorskip(engine)

    @PROPERTY
    @given(st.data(), st.integers(0, 50))
    def check(data: Any, seed: int) -> None:
        truth, results = problem(seed, iou_type)
        ids = other_ids(data, truth)
        expected = score(engine, truth, results, iou_type)
        ours = score(engine, renamed_truth(truth, *ids), renamed(results, *ids), iou_type)
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(one, other)

    check()


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("engine", ["hotcoco", pytest.param("pycocotools", marks=pytest.mark.slow)])
def test_an_evaluator_and_its_files_keep_the_ids(problem: Any, tmp_path: Any, engine: str, iou_type: str) -> None:
    pytest.importorskip(engine)

    @PROPERTY
    @given(st.data(), st.integers(0, 50))
    def check(data: Any, seed: int) -> None:
        truth, results = problem(seed, iou_type)
        images, categories = other_ids(data, truth)
        plain = CocoEvaluator(truth, [iou_type], engine, "all")
        plain.add_results(results)
        found = renamed(results, images, categories)
        halves = [CocoEvaluator(renamed_truth(truth, images, categories), [iou_type], engine, "all") for _ in range(3)]
        chosen = {*list(images.values())[::2]}
        halves[0].add_results([one for one in found if one["image_id"] in chosen])
        halves[1].add_results([one for one in found if one["image_id"] not in chosen])
        halves[0].merge([pickle.loads(pickle.dumps(halves[1].state()))])  # as from another process
        write_results(tmp_path / "results.json", halves[0].results(iou_type))
        halves[2].add_results(read_results(tmp_path / "results.json"))
        expected = plain.evaluate()
        for evaluator in (halves[0], halves[2]):
            numbers = evaluator.evaluate()
            np.testing.assert_array_equal([*numbers.values()], [*expected.values()])
            rows = evaluator.per_class(iou_type)
            assert [row["id"] for row in rows] == sorted(categories.values())
            for row, other in zip(rows, plain.per_class(iou_type), strict=True):
                np.testing.assert_equal(row | {"id": 0}, other | {"id": 0})

    check()


def test_lists_of_lvis_have_the_numbers_too() -> None:
    pytest.importorskip("hotcoco")
    big = 2**62 + 1
    truth = {
        "images": [
            {"id": big, "height": 90, "width": 90, "neg_category_ids": [-7, 99], "not_exhaustive_category_ids": []},
            {"id": -5, "height": 90, "width": 90, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        ],
        "categories": [{"id": big + 1, "name": "a", "frequency": "r"}, {"id": -7, "name": "b", "frequency": "f"}],
        "annotations": [
            {"id": 1, "image_id": big, "category_id": big + 1, "bbox": [0, 0, 20, 20]},
            {"id": 2, "image_id": -5, "category_id": -7, "bbox": [0, 0, 20, 20]},
        ],
    }
    clean = clean_ground_truth(truth, masks=False)
    assert Numbering(clean).truth(clean)["images"][0]["neg_category_ids"] == [1]  # 99 is no category
    right = [
        {"image_id": big, "category_id": big + 1, "bbox": [0, 0, 20, 20], "score": 0.5},
        {"image_id": -5, "category_id": -7, "bbox": [0, 0, 20, 20], "score": 0.5},
    ]
    absent = {"image_id": big, "category_id": -7, "bbox": [40, 40, 20, 20], "score": 0.9}
    unknown = {"image_id": -5, "category_id": big + 1, "bbox": [40, 40, 20, 20], "score": 0.9}
    assert lvis_numbers(clean, [*right, unknown], "bbox")["APr"] == pytest.approx(1)
    assert lvis_numbers(clean, [*right, absent], "bbox")["APf"] == pytest.approx(0.5, abs=0.01)


def test_ids_that_are_not_exact_are_rejected() -> None:
    truth = {"images": [{"id": 2.0**60}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    with pytest.raises(ValueError, match=r"image id 1.15\d+e\+18 is not exact; write it as an integer$"):
        clean_ground_truth(truth, masks=False)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "first"])
def test_ids_that_no_result_file_can_hold_are_numbered_as_in_training(value: int | str) -> None:
    images = [{"id": 7}, {"id": value, "neg_category_ids": [value], "not_exhaustive_category_ids": [99]}]
    annotation = {"image_id": value, "category_id": value, "bbox": [0, 0, 20, 20]}
    truth = {
        "images": images,
        "categories": [{"id": 5, "name": "b"}, {"id": value, "name": "a"}],
        "annotations": [annotation],
    }
    with pytest.warns(UserWarning, match="id that is text or beyond 64 bits .all numbered from 1 in"):
        clean = clean_ground_truth(truth, masks=False)
    assert [image["id"] for image in clean["images"]] == [1, 2]
    assert clean["images"][1]["neg_category_ids"] == [2]  # LVIS's lists follow
    assert clean["images"][1]["not_exhaustive_category_ids"] == [99]
    assert (clean["annotations"][0]["image_id"], clean["annotations"][0]["category_id"]) == (2, 2)
