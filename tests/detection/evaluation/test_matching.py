"""Images matched one by one, in any order and by several processes, compared with pycocotools on all at once."""

import pickle
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.coco.rle import mask_areas
from detection.evaluation import matching as module
from detection.evaluation.engines import STATISTICS, score, summarize
from detection.evaluation.ground_truth import clean_ground_truth
from detection.evaluation.matching import Matching, Rows, boxes_of_areas
from detection.evaluation.results import read_results

pytest.importorskip("hotcoco")


class Results:
    """Results by image, in the form that :class:`Matching` takes."""

    def __init__(self, results: Iterable[dict[str, Any]], iou_type: str) -> None:
        self._by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for result in results:
            self._by_image[result["image_id"]].append(result)
        self._iou_type = iou_type

    def __call__(self, image_ids: Iterable[int]) -> Rows:
        results = [result for image_id in image_ids for result in self._by_image[image_id]]
        masks = [r["segmentation"] for r in results] if self._iou_type == "segm" else []
        boxes = boxes_of_areas(mask_areas(masks)) if masks else [r.get("bbox") for r in results]
        ids = [[r["image_id"], r["category_id"]] for r in results]
        rows = [[*box, r["score"]] for box, r in zip(boxes, results, strict=True)]
        return np.array(ids, dtype=np.int64).reshape(-1, 2), np.array(rows).reshape(-1, 5), masks


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_any_order_equals_pycocotools_bit_for_bit(problem: Any, iou_type: str) -> None:
    for seed in range(25):
        truth, results = problem(seed, iou_type)
        expected = score("pycocotools", truth, [dict(r) for r in results], iou_type)
        rows = Results(results, iou_type)
        order = np.random.default_rng(seed).permutation([image["id"] for image in truth["images"]]).tolist()
        matching = Matching(truth, iou_type, rows)
        for image_id in order[:4]:
            matching.add([image_id])
        assert matching.image_ids == {*order[:4]}
        for _ in range(2):  # what was left is matched anew
            for ours, theirs in zip(matching.scores(order[4:]), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_what_several_have_matched_equals_pycocotools_bit_for_bit(problem: Any, iou_type: str) -> None:
    for seed in range(25):
        truth, results = problem(seed, iou_type)
        expected = score("pycocotools", truth, [dict(r) for r in results], iou_type)
        rows = Results(results, iou_type)
        order = np.random.default_rng(seed).permutation([image["id"] for image in truth["images"]]).tolist()
        # The last one has an image that the first one has: none of its images may count.
        shares, known = (order[:3], order[3:5], [order[5], order[0]]), set()
        whole = Matching(truth, iou_type, rows)
        for share in shares:
            matching = Matching(truth, iou_type, rows)
            matching.add(share)
            whole.merge(pickle.loads(pickle.dumps(matching.state())), known)
            known |= {*share}
        assert whole.image_ids == {*order[:5]}
        for ours, theirs in zip(whole.scores(order[5:]), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_only_the_best_hundred_of_a_class_count() -> None:
    random = np.random.default_rng(0)
    boxes = random.uniform([0, 0, 5, 5], [80, 80, 20, 20], (300, 4)).round()
    annotations = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes[:40].tolist())]
    coco = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    truth = clean_ground_truth(coco, masks=False)
    scores = random.integers(1, 10, 300) / 10
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": float(s)}
        for box, s in zip(random.permutation(boxes).tolist(), scores, strict=True)
    ]
    matching = Matching(truth, "bbox", Results(results, "bbox"))
    matching.add([1])
    for ours, theirs in zip(matching.scores([]), score("pycocotools", truth, results, "bbox"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_numbers_image_by_image(shared_data: Path, published: Any, iou_type: str) -> None:
    folder = shared_data / "coco_eval_reference"
    truth = clean_ground_truth(folder / "instances_val2014_100.json", masks=iou_type == "segm")
    rows = Results(read_results(folder / f"instances_val2014_fake{iou_type}100_results.json"), iou_type)
    matching = Matching(truth, iou_type, rows)
    for image in reversed(truth["images"]):
        matching.add([image["id"]])
    numbers = summarize(*matching.scores([]))
    assert [numbers[name] for name in STATISTICS] == pytest.approx(published[iou_type], abs=1e-12)


def test_images_are_matched_as_soon_as_there_are_enough(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their detections need no memory after that."""
    monkeypatch.setattr(module, "_CHUNK", 2)
    truth, results = problem(0, "bbox")
    rows, asked = Results(results, "bbox"), []

    def noted(image_ids: list[int]) -> Rows:
        asked.append(list(image_ids))
        return rows(image_ids)

    order = [image["id"] for image in truth["images"]]
    matching = Matching(truth, "bbox", noted)
    for image_id in order[:3]:
        matching.add([image_id])
    assert asked == [order[:2]]
    matching.add(order[3:6])
    assert asked == [order[:2], order[2:4], order[4:6]]
    for ours, theirs in zip(matching.scores(order[6:]), score("pycocotools", truth, results, "bbox"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
