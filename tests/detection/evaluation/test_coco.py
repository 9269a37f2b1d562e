"""The published metrics, and changes of the input that must not change a metric."""

import json
import math
import multiprocessing
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import STATISTICS
from detection.evaluation.results import read_results, write_results
from detection.structures import IGNORE, Batch, Detections

Engine = Literal["pycocotools", "hotcoco"]


@pytest.fixture(params=["pycocotools", "hotcoco"])
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    return request.param


def truth(objects: dict[int, list[list[float]]], size: tuple[int, int] = (100, 200)) -> dict[str, Any]:
    """Images of one size with square-cornered objects of class "dog" (id 18), x, y, width, height; "cat" is 17."""
    annotations: list[dict[str, Any]] = []
    for image_id, boxes in objects.items():
        for x, y, w, h in boxes:
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotation = {"image_id": image_id, "category_id": 18, "bbox": [x, y, w, h], "segmentation": polygon}
            annotations.append(annotation | {"id": len(annotations), "area": w * h, "iscrowd": 0})
    images = [{"id": image_id, "height": size[0], "width": size[1]} for image_id in objects]
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def batch(image_ids: list[int], canvas: tuple[int, int] = (50, 100), file: tuple[int, int] = (100, 200)) -> Batch:
    number = len(image_ids)
    sizes, original_sizes = torch.tensor([canvas] * number), torch.tensor([file] * number)
    return Batch(torch.zeros(number, 3, 64, 128, dtype=torch.uint8), sizes, original_sizes, torch.tensor(image_ids))


def detections(boxes: Sequence[Sequence[Sequence[float]]], scores: list[list[float]] | None = None) -> Detections:
    """XYXY in canvas pixels, per image, padded by one; all of label 1 (dog), with full masks."""
    number = max(len(b) for b in boxes) + 1
    padded = torch.zeros(len(boxes), number, 4)
    score = torch.zeros(len(boxes), number)
    labels = torch.full((len(boxes), number), IGNORE)
    for i, rows in enumerate(boxes):
        if rows:
            padded[i, : len(rows)] = torch.tensor(rows)
            score[i, : len(rows)] = torch.tensor(scores[i]) if scores else torch.linspace(0.9, 0.5, len(rows))
            labels[i, : len(rows)] = 1
    return Detections(padded, score, labels, torch.ones(len(boxes), number, 28, 28))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_numbers(shared_data: Path, published: Any, engine: Engine, iou_type: str) -> None:
    folder = shared_data / "coco_eval_reference"
    evaluator = CocoEvaluator(folder / "instances_val2014_100.json", (iou_type,), engine, image_ids="all")
    evaluator.add_results(read_results(folder / f"instances_val2014_fake{iou_type}100_results.json"))
    numbers = evaluator.evaluate()
    assert [numbers[f"{iou_type}/{name}"] for name in STATISTICS] == pytest.approx(published[iou_type], abs=1e-12)
    per_class = [row["AP"] for row in evaluator.per_class(iou_type) if row["count"]]
    assert np.mean(per_class) == pytest.approx(published[iou_type][0], abs=1e-12)


def test_perfect_detections_in_canvas_pixels(engine: Engine) -> None:
    evaluator = CocoEvaluator(truth({5: [[20, 10, 40, 40], [100, 20, 30, 60]], 9: []}), engine=engine)
    evaluator.add(batch([5, IGNORE, 9]), detections([[[10, 5, 30, 25], [50, 10, 65, 40]], [[0, 0, 9, 9]], []]))
    numbers = evaluator.evaluate()
    assert numbers["bbox/AP"] == pytest.approx(1)
    assert numbers["segm/AP"] == pytest.approx(1)
    assert math.isnan(numbers["bbox/APs"])  # no object is small
    assert len(numbers) == 24
    first = evaluator.results("bbox")[0]
    assert first == {"image_id": 5, "category_id": 18, "score": pytest.approx(0.9), "bbox": [20, 10, 40, 40]}
    rows = evaluator.per_class("bbox")
    assert [(row["name"], row["id"], row["count"]) for row in rows] == [("cat", 17, 0), ("dog", 18, 2)]
    assert math.isnan(rows[0]["AP"])
    assert rows[1]["AP"] == pytest.approx(1)


def test_boxes_are_clipped_but_masks_keep_their_frame() -> None:
    evaluator = CocoEvaluator(truth({5: [[0, 0, 40, 40]]}))
    found = detections([[[-20, -20, 20, 20]]])
    found.masks[:] = 0  # type: ignore[index]
    found.masks[..., 14:, 14:] = 1  # type: ignore[index]  # the quarter inside the image
    evaluator.add(batch([5]), found)
    assert evaluator.results("bbox")[0]["bbox"] == [0, 0, 40, 40]
    assert evaluator.evaluate()["segm/AP75"] == pytest.approx(1)


def test_bad_detections_are_dropped_and_counted(engine: Engine) -> None:
    nan, inf = math.nan, math.inf
    evaluator = CocoEvaluator(truth({5: [[20, 10, 40, 40], [100, 20, 30, 60]]}), engine=engine)
    boxes: list[list[float]] = [[nan, nan, nan, nan], [10, 5, inf, 25], [30, 25, 10, 5], [10, 5, 30, 25]]
    evaluator.add(batch([5]), detections([boxes], [[0.9, 0.9, 0.9, nan]]))
    assert evaluator.dropped == 4
    assert {name: v for name, v in evaluator.evaluate().items() if v > 0} == {}

    evaluator.reset()
    result = {"image_id": 5, "category_id": 18, "score": 0.9}
    bad = [result | {"bbox": box} for box in ([nan, 0, 5, 5], [0, 0, -5, 5], [0, 0, inf, 5])]
    evaluator.add_results([*bad, result | {"bbox": [20, 10, 40, 40]}])
    assert evaluator.dropped == 3
    assert len(evaluator.results("bbox")) == 1


def test_nothing_found_is_zero_and_nothing_to_find_is_nan(engine: Engine) -> None:
    evaluator = CocoEvaluator(truth({5: [[20, 10, 40, 40]], 6: []}), engine=engine)
    assert all(map(math.isnan, evaluator.evaluate().values()))  # nothing seen
    evaluator.add(batch([6]), detections([[[10, 5, 30, 25]]]))
    assert all(map(math.isnan, evaluator.evaluate().values()))  # nothing to find
    evaluator.reset()
    evaluator.add(batch([5]), detections([[]]))
    numbers = evaluator.evaluate()
    assert numbers["bbox/AP"] == numbers["segm/AP"] == numbers["bbox/APm"] == 0
    assert math.isnan(numbers["bbox/APl"])


def test_only_seen_images_are_scored_unless_all() -> None:
    coco = truth({5: [[20, 10, 40, 40]], 6: [[20, 10, 40, 40]]})
    scores = {}
    for image_ids in ("seen", "all"):
        evaluator = CocoEvaluator(coco, ("bbox",), image_ids=image_ids)  # type: ignore[arg-type]
        evaluator.add(batch([5]), detections([[[10, 5, 30, 25]]]))
        scores[image_ids] = evaluator.evaluate()["bbox/AR100"]
    assert scores == {"seen": 1, "all": 0.5}


def test_an_image_added_twice_counts_once() -> None:
    coco = truth({5: [[20, 10, 40, 40]], 6: [[20, 10, 40, 40]]})
    evaluator = CocoEvaluator(coco)
    evaluator.add(batch([5]), detections([[[10, 5, 30, 25]]]))
    before = evaluator.results("segm")
    evaluator.add(batch([5]), detections([[[11, 5, 30, 25]]]))
    assert evaluator.results("segm") == before


def test_merged_ranks_equal_one_process() -> None:
    generator = torch.Generator().manual_seed(0)
    objects = {i: [[10 * i, 10, 30, 40], [120, 5 * i, 20, 30]] for i in range(1, 8)}
    coco = truth(objects)  # type: ignore[arg-type]

    def evaluate(shards: list[list[int]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
        generator.manual_seed(0)
        found = {}
        for i, boxes in objects.items():
            xyxy = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]) / 2
            found[i] = (xyxy + 3 * torch.rand(2, 4, generator=generator)).tolist()
        states = []
        for shard in shards:
            evaluator = CocoEvaluator(coco)
            for i in shard:
                evaluator.add(batch([i]), detections([found[i]]))
            states.append(pickle.loads(pickle.dumps(evaluator.state())))
        evaluator = CocoEvaluator(coco)
        evaluator.merge(states)
        return evaluator.evaluate(), evaluator.results("segm")

    alone = evaluate([[1, 2, 3, 4, 5, 6, 7]])
    assert 0 < alone[0]["bbox/AP"] < 1
    for shards in ([[7, 5, 3, 1], [6, 4, 2, 7]], [[1, 4, 7], [2, 5, 1], [3, 6, 2]]):  # with repeated fillers
        numbers, results = evaluate(shards)
        assert results == alone[1]
        np.testing.assert_equal(numbers, alone[0])


def found_at_random(seed: int, number: int) -> Detections:
    """Like and unlike the objects of :func:`crowded`; many of one score."""
    generator = torch.Generator().manual_seed(seed)
    corners = 5 * torch.randint(0, 4, (number, 12, 2), generator=generator)
    sides = 5 + 5 * torch.randint(0, 2, (number, 12, 2), generator=generator)
    scores = torch.randint(1, 5, (number, 12), generator=generator) / 5
    masks = (torch.rand(number, 12, 28, 28, generator=generator) < 0.9).float()
    labels = torch.randint(-1, 2, (number, 12), generator=generator)
    return Detections(torch.cat([corners, corners + sides], dim=-1).float(), scores, labels, masks)


def crowded() -> dict[str, Any]:
    random = np.random.default_rng(0)
    objects = {
        i: np.concatenate([random.integers(0, 4, (5, 2)), random.integers(1, 3, (5, 2))], axis=1) * 10.0
        for i in range(1, 9)
    }
    coco = truth({i: boxes.tolist() for i, boxes in objects.items()})
    for annotation in coco["annotations"]:
        annotation |= {"category_id": int(random.choice([17, 18])), "iscrowd": int(random.random() < 0.2)}
        if annotation["iscrowd"]:
            x, y, w, h = (int(value) for value in annotation["bbox"])
            runs = [100 * x + y] + [h, 100 - h] * (w - 1) + [h]
            annotation["segmentation"] = {"size": [100, 200], "counts": [*runs, 20000 - sum(runs)]}
    return coco


@pytest.mark.parametrize("image_ids", ["seen", "all"])
def test_matched_as_they_come_equals_pycocotools_bit_for_bit(image_ids: Literal["seen", "all"]) -> None:
    pytest.importorskip("hotcoco")
    fast = CocoEvaluator(crowded(), engine="hotcoco", image_ids=image_ids)
    slow = CocoEvaluator(crowded(), engine="pycocotools", image_ids=image_ids)
    for seed, ids in enumerate(([7, 3], [IGNORE, 1], [3, 8], [2])):
        found = found_at_random(seed, len(ids))
        for evaluator in (fast, slow):
            evaluator.add(batch(ids), found)
        numbers = fast.evaluate()  # every time, as after each epoch, or in between
        np.testing.assert_equal(fast.evaluate(), numbers)
        np.testing.assert_equal(numbers, slow.evaluate())
    assert 0 < numbers["bbox/AP"] < 1
    assert 0 < numbers["segm/AP"] < 1
    for iou_type in ("bbox", "segm"):
        assert fast.state()["matched"][iou_type][0] == {1, 2, 3, 7, 8}  # nothing was left for the end
    fast.reset()
    assert all(math.isnan(value) for value in fast.evaluate().values()) or image_ids == "all"


def test_what_was_not_matched_by_all_is_matched_at_the_end() -> None:
    pytest.importorskip("hotcoco")
    plain = CocoEvaluator(crowded())
    plain.add(batch([1, 2, 3, 4, 5]), found_at_random(0, 5))
    results = {t: plain.results(t) for t in ("bbox", "segm")}
    first, second, third = (CocoEvaluator(crowded()) for _ in range(3))
    for of_type in results.values():
        first.add_results([r for r in of_type if r["image_id"] <= 2])
    second.add(batch([3, 2, 4]), found_at_random(1, 3))  # of image 2, other detections, which do not count
    third.add(batch([5]), found_at_random(2, 1))
    whole = CocoEvaluator(crowded())
    whole.merge(pickle.loads(pickle.dumps(evaluator.state())) for evaluator in (first, second, third))
    assert whole.state()["matched"]["bbox"][0] == {5}
    reference = CocoEvaluator(crowded(), engine="pycocotools")
    reference.merge([whole.state()])
    np.testing.assert_equal(whole.evaluate(), reference.evaluate())


def test_of_an_image_that_several_have_the_first_one_counts(engine: Engine) -> None:
    coco = truth({5: [[20, 10, 40, 40]], 6: []})
    right, wrong = [[10.0, 5.0, 30.0, 25.0]], [[60.0, 20.0, 70.0, 30.0]]

    def evaluator_of(boxes: list[list[float]], score: float = 0.9) -> CocoEvaluator:
        evaluator = CocoEvaluator(coco, ("bbox",), engine)
        evaluator.add(batch([5]), detections([[*boxes, *boxes]], [[score, math.nan]]))
        return evaluator

    good, bad = evaluator_of(right), evaluator_of(wrong, 0.8)
    bad.add(batch([6]), detections([[[math.nan] * 4] * 2]))  # two more that are dropped
    for states, score, box in (([good, bad], 1, [20, 10, 40, 40]), ([bad, good], 0, [120, 40, 20, 20])):
        merged = CocoEvaluator(coco, ("bbox",), engine)
        merged.merge([evaluator.state() for evaluator in states])
        assert [result["bbox"] for result in merged.results("bbox")] == [box]
        assert merged.evaluate()["bbox/AP"] == pytest.approx(score)
        assert merged.dropped == 3
    for own, other, score in ((evaluator_of(right), bad, 1), (evaluator_of(wrong), good, 0)):
        own.merge([other.state()])
        assert own.evaluate()["bbox/AP"] == pytest.approx(score)  # its own, before all that come later
    none = CocoEvaluator(coco, ("bbox",), engine)
    none.add(batch([5]), detections([[]]))
    none.merge([good.state()])
    assert (none.results("bbox"), none.dropped) == ([], 0)  # nothing found is an answer, too


def test_a_forked_process_takes_the_reference() -> None:
    pytest.importorskip("hotcoco")
    evaluator = CocoEvaluator(crowded())
    evaluator.add(batch([1]), found_at_random(0, 1))
    expected = CocoEvaluator(crowded(), engine="pycocotools")
    for seed, image_id in enumerate((1, 2)):
        expected.add(batch([image_id]), found_at_random(seed, 1))
    numbers = expected.evaluate()

    def go_on() -> None:
        torch.set_num_threads(1)  # torch, too, would wait for its threads
        evaluator.add(batch([2]), found_at_random(1, 1))
        np.testing.assert_equal(evaluator.evaluate(), numbers)

    process = multiprocessing.get_context("fork").Process(target=go_on)
    process.start()
    process.join(30)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_written_results_give_the_same_numbers_in_plain_pycocotools(tmp_path: Path, iou_type: str) -> None:
    random = np.random.default_rng(0)
    coco = truth({i: [[20, 10, 40, 40], [90, 20, 15, 25]] for i in range(1, 5)})
    for index, annotation in enumerate(coco["annotations"], start=1):
        annotation["id"] = index  # plain pycocotools loses id 0
    evaluator = CocoEvaluator(coco)
    for image_id in (1, 2, 4, 3):
        boxes = np.array([[10, 5, 30, 25], [45, 10, 53, 23], [60, 1, 90, 33]]) + random.normal(0, 1.5, (3, 4))
        evaluator.add(batch([image_id]), detections([boxes.tolist()]))
    ours = [evaluator.evaluate()[f"{iou_type}/{name}"] for name in STATISTICS]

    write_results(tmp_path / "results.json", evaluator.results(iou_type))
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    judge = COCO(tmp_path / "truth.json")
    judged = COCOeval(judge, judge.loadRes(str(tmp_path / "results.json")), iou_type)
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    np.testing.assert_array_equal(ours, np.where(judged.stats < 0, np.nan, judged.stats))
    assert 0 < ours[0] < 1

    again = CocoEvaluator(coco)
    again.add_results(read_results(tmp_path / "results.json"))
    np.testing.assert_array_equal([again.evaluate()[f"{iou_type}/{name}"] for name in STATISTICS], ours)


def test_annotation_ids_do_not_matter(engine: Engine) -> None:
    for ids in ([0, 1], [3, 3]):
        coco = truth({5: [[20, 10, 40, 40], [100, 20, 30, 60]]})
        for annotation, new in zip(coco["annotations"], ids, strict=True):
            annotation["id"] = new
        evaluator = CocoEvaluator(coco, engine=engine)
        evaluator.add(batch([5]), detections([[[10, 5, 30, 25], [50, 10, 65, 40]]]))
        assert evaluator.evaluate()["bbox/AP"] == pytest.approx(1)


def test_quiet(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    evaluator = CocoEvaluator(truth({5: [[20, 10, 40, 40]]}), engine=engine)
    evaluator.add(batch([5]), detections([[[10, 5, 30, 25]]]))
    evaluator.gather()
    evaluator.evaluate()
    assert capfd.readouterr() == ("", "")


def test_what_is_refused() -> None:
    coco = truth({5: [[20, 10, 40, 40]]})
    with pytest.raises(ValueError, match="iou_types"):
        CocoEvaluator(coco, ("box",))
    with pytest.raises(ValueError, match="image_ids"):
        CocoEvaluator(coco, image_ids="some")  # type: ignore[arg-type]
    evaluator = CocoEvaluator(coco)
    found = detections([[[10, 5, 30, 25]]])
    with pytest.raises(ValueError, match="no masks"):
        evaluator.add(batch([5]), found._replace(masks=None))
    with pytest.raises(ValueError, match="image 8 is not"):
        evaluator.add(batch([8]), found)
    with pytest.raises(ValueError, match="200 x 100, but 100 x 200"):
        evaluator.add(batch([5], file=(200, 100)), found)
    with pytest.raises(ValueError, match="label 2"):
        evaluator.add(batch([5]), found._replace(labels=found.labels + 1))
    result = {"image_id": 5, "category_id": 18, "score": 0.9, "bbox": [1, 2, 3, 4]}
    for change, message in (
        ({"image_id": 6}, "image 6"),
        ({"category_id": 1}, "category 1"),
        ({"bbox": [1, 2, 3]}, "four numbers"),
        ({"segmentation": {"size": [100, 200], "counts": [5, 6]}}, "image 5: the runs of the RLE sum to 11"),
        ({"segmentation": {"size": [100, 200], "counts": "56"}}, "image 5: the runs of the RLE sum to 11"),
        ({"segmentation": {"size": [10**5, 10**5], "counts": [10**10]}}, "image 5: RLE of size"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluator.add_results([result | change])


def test_masks_of_results_in_every_form() -> None:
    evaluator = CocoEvaluator(truth({5: [[20, 10, 40, 40]]}), ("segm",))
    evaluator.add(batch([5]), detections([[[10, 5, 30, 25]]]))
    (result,) = evaluator.results("segm")
    counts = result["segmentation"]["counts"]
    runs = [20 * 100 + 10] + [40, 60] * 39 + [40, 100 * 200 - 59 * 100 - 50]
    for form in (counts, counts.encode(), runs):
        other = CocoEvaluator(truth({5: [[20, 10, 40, 40]]}), ("segm",))
        other.add_results([result | {"segmentation": {"size": [100, 200], "counts": form}}])
        assert other.results("segm") == [result]


@pytest.mark.parametrize("mark", [{"iscrowd": 1}, {"ignore": 1}])
@pytest.mark.parametrize("mask", ["polygon", "brush"])
def test_finding_what_is_ignored_is_neither_right_nor_wrong(engine: Engine, mark: dict[str, int], mask: str) -> None:
    content = truth({1: [[10, 10, 20, 20], [60, 10, 40, 40]]})
    content["annotations"][1] |= mark
    if mask == "brush":  # x from 60 to 100 and y from 10 to 50 of 100 x 200, column by column
        content["annotations"][1]["segmentation"] = {"size": [100, 200], "counts": [6010, *[40, 60] * 39, 40, 10050]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = CocoEvaluator(content, engine=engine, image_ids="all")
    # The crowd is found twice, once in part, with higher scores than the object.
    boxes = [([60.0, 10, 40, 40], 0.9), ([62.0, 12, 10, 10], 0.8), ([10.0, 10, 20, 20], 0.7)]
    found = []
    for (x, y, w, h), score in boxes:
        outline = coco_mask.merge(coco_mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], 100, 200))
        rle = {**outline, "counts": outline["counts"].decode()}
        found.append({"image_id": 1, "category_id": 18, "score": score, "bbox": [x, y, w, h], "segmentation": rle})
    evaluator.add_results(found)
    numbers = evaluator.evaluate()
    assert numbers["bbox/AP"] == numbers["segm/AP"] == pytest.approx(1.0)
    assert evaluator.per_class()[1]["count"] == 1
