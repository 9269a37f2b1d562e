"""The published numbers, and everything that must not change a score."""

import json
import math
import pickle
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import STATISTICS
from detection.evaluation.results import read_results, write_results
from detection.structures import IGNORE, Batch, Detections

Engine = Literal["pycocotools", "hotcoco"]

PUBLISHED = {
    "bbox": [
        0.5045806987249628, 0.6969727247299577, 0.5729816669904824, 0.5856257209410443, 0.5193996948036719,
        0.5013978986347466, 0.38681277964578054, 0.5936795762842003, 0.595352982877607, 0.6398109626113442,
        0.5664205978994309, 0.5642905982905982,
    ],
    "segm": [
        0.3195452758576433, 0.5622883972521636, 0.29892653412086784, 0.3873740315997837, 0.31018272403369485,
        0.3269339071005138, 0.2682297225711534, 0.41544868114906375, 0.4168394992198818, 0.4694498622754236,
        0.37675922666197265, 0.3814715099715099,
    ],
}  # fmt: skip
"""cocoapi's own example, in the order of STATISTICS."""


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
def test_published_numbers(shared_data: Path, engine: Engine, iou_type: str) -> None:
    folder = shared_data / "coco_eval_reference"
    evaluator = CocoEvaluator(folder / "instances_val2014_100.json", (iou_type,), engine, image_ids="all")
    evaluator.add_results(read_results(folder / f"instances_val2014_fake{iou_type}100_results.json"))
    numbers = evaluator.evaluate()
    assert [numbers[f"{iou_type}/{name}"] for name in STATISTICS] == pytest.approx(PUBLISHED[iou_type], abs=1e-12)
    per_class = [row["AP"] for row in evaluator.per_class(iou_type) if row["count"]]
    assert np.mean(per_class) == pytest.approx(PUBLISHED[iou_type][0], abs=1e-12)


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


RANK = """
import json, sys
import torch
from detection.evaluation.coco import CocoEvaluator

rank, port, truth = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method="tcp://localhost:" + port, rank=rank, world_size=2)
evaluator = CocoEvaluator(truth, ("bbox",))
for image_id in ([5, 7], [6, 5])[rank]:  # 5 again, to fill up
    bbox = [20 + rank, 10, 40, 40]
    evaluator.add_results([{"image_id": image_id, "category_id": 18, "score": 0.5, "bbox": bbox}])
evaluator.gather()
print(json.dumps([evaluator.results("bbox"), evaluator.evaluate()["bbox/AP"]]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_gather_over_two_processes() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    coco = json.dumps(truth({5: [[20, 10, 40, 40]], 6: [[20, 10, 40, 40]], 7: [[20, 10, 40, 40]]}))
    commands = [[sys.executable, "-c", RANK, str(rank), str(port), coco] for rank in range(2)]
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) for command in commands]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in processes)
    assert first == second
    assert [result["image_id"] for result in first[0]] == [5, 6, 7]
    assert [result["bbox"][0] for result in first[0]] == [20, 21, 20]  # of image 5, the first rank's


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
        ({"segmentation": {"size": [100, 200], "counts": [5, 6]}}, "image 5: RLE has runs of 11"),
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
