"""OKS AP beside a slow reference written from COCO's definition, by both engines."""

import copy
import math

import numpy as np
import pytest
import torch
from pycocotools.cocoeval import Params

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import statistics
from detection.evaluation.keypoints import COCO_SIGMAS, sigmas_of
from detection.evaluation.limits import COCO_KEYPOINT_LIMIT
from detection.evaluation.results import read_results, write_results
from detection.structures import IGNORE, Batch, Detections

ENGINES = ("hotcoco", "pycocotools")
THRESHOLDS = [0.5 + 0.05 * k for k in range(10)]
AREAS = {"": (0, 1e10), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def problem(seed: int, names: int = 5, images: int = 12) -> tuple[dict, list[dict]]:
    """A ground truth of two classes, the second with one keypoint less, and results near it."""
    generator = np.random.default_rng(seed)
    counts = {3: names, 8: names - 1}
    truth = {
        "images": [{"id": 10 + 7 * i, "height": 200, "width": 300} for i in range(images)],
        "categories": [
            {"id": id, "name": f"class {id}", "keypoints": [f"k{n}" for n in range(count)]}
            for id, count in counts.items()
        ],
        "annotations": [],
    }
    results = []
    for image in truth["images"]:
        for _ in range(generator.integers(0, 6)):
            id = int(generator.choice([3, 8]))
            box = [*generator.uniform(0, 150, 2), *generator.uniform(20, 140, 2)]
            places = box[:2] + generator.uniform(0, 1, (counts[id], 2)) * box[2:]
            points = np.concatenate([places, generator.integers(0, 3, (counts[id], 1))], axis=1)
            if generator.random() < 0.2:
                points[:, 2] = 0
            points[points[:, 2] == 0] = 0
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": id,
                    "bbox": [float(value) for value in box],
                    "area": float(box[2] * box[3] * 0.6),
                    "iscrowd": int(generator.random() < 0.1),
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )
            for _ in range(generator.integers(0, 3)):
                found = points.copy()
                found[:, :2] += generator.normal(0, 4, (counts[id], 2))
                found[:, 2] = generator.random(counts[id])
                result = {"image_id": image["id"], "category_id": id, "keypoints": found.ravel().tolist()}
                results.append(result | {"score": float(generator.random())})
    return truth, results


def oks(annotation: dict, result: dict, sigmas: list[float]) -> float:
    """The similarity of two lists of keypoints; without labelled ones, by the distance from twice the box."""
    theirs, found = (np.reshape(one["keypoints"], (-1, 3)) for one in (annotation, result))
    total, count = 0.0, 0
    x, y, width, height = annotation["bbox"]
    labelled = (theirs[:, 2] > 0).any()
    for k, (point, other) in enumerate(zip(theirs, found, strict=True)):
        if labelled and point[2] == 0:
            continue
        if labelled:
            dx, dy = other[0] - point[0], other[1] - point[1]
        else:
            dx = max(0, x - width - other[0]) + max(0, other[0] - x - 2 * width)
            dy = max(0, y - height - other[1]) + max(0, other[1] - y - 2 * height)
        total += math.exp(-(dx**2 + dy**2) / (2 * (annotation["area"] + 2.220446e-16) * (2 * sigmas[k]) ** 2))
        count += 1
    return total / count


def slow_numbers(truth: dict, results: list[dict], sigmas: list[float], most: int = 20) -> dict[str, float]:
    """The ten numbers, one image, class, threshold and area after another."""
    precision = {}  # (threshold, class, area) -> mean precision at 101 recalls; recall likewise
    recall = {}
    for t, threshold in enumerate(THRESHOLDS):
        for category in truth["categories"]:
            for area, (low, high) in AREAS.items():
                scored, objects = [], 0
                for image in truth["images"]:
                    own = [
                        one for one in truth["annotations"]
                        if (one["image_id"], one["category_id"]) == (image["id"], category["id"])
                    ]  # fmt: skip
                    ignored = [
                        bool(one["iscrowd"] or one["num_keypoints"] == 0 or not low <= one["area"] <= high)
                        for one in own
                    ]
                    order = sorted(range(len(own)), key=lambda k: ignored[k])
                    objects += ignored.count(False)
                    found = [r for r in results if (r["image_id"], r["category_id"]) == (image["id"], category["id"])]
                    found = sorted(found, key=lambda r: -r["score"])[:most]
                    taken = set()
                    for result in found:
                        best, match = min(threshold, 1 - 1e-10), None
                        for k in order:
                            if k in taken and not own[k]["iscrowd"]:
                                continue
                            if match is not None and not ignored[match] and ignored[k]:
                                break
                            similarity = oks(own[k], result, sigmas)
                            if similarity >= best:
                                best, match = similarity, k
                        if match is not None:
                            taken.add(match)
                        x, y, _ = np.reshape(result["keypoints"], (-1, 3)).T
                        size = np.ptp(x) * np.ptp(y)
                        ignore = ignored[match] if match is not None else not low <= size <= high
                        if not ignore:
                            scored.append((result["score"], match is not None))
                if not objects:
                    continue
                scored.sort(key=lambda pair: -pair[0])
                right = np.cumsum([hit for _, hit in scored]) if scored else np.zeros(0)
                recalls = right / objects
                precisions = right / np.arange(1, len(scored) + 1)
                at = [
                    max((p for p, r in zip(precisions, recalls, strict=True) if r >= cut), default=0.0)
                    for cut in np.linspace(0, 1, 101)
                ]
                precision[t, category["id"], area] = np.mean(at)
                recall[t, category["id"], area] = recalls[-1] if len(recalls) else 0.0

    def mean(table: dict, area: str, at: int | None = None) -> float:
        values = [v for (t, _, a), v in table.items() if a == area and (at is None or t == at)]
        return float(np.mean(values)) if values else math.nan

    numbers = {}
    for name, table in (("AP", precision), ("AR", recall)):
        numbers |= {name: mean(table, ""), f"{name}50": mean(table, "", 0), f"{name}75": mean(table, "", 5)}
        numbers |= {f"{name}m": mean(table, "m"), f"{name}l": mean(table, "l")}
    return numbers


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("engine", ENGINES)
def test_the_ten_numbers_are_those_of_the_definition(engine, seed):
    truth, results = problem(seed)
    sigmas = [0.05, 0.03, 0.08, 0.05, 0.1]
    evaluator = CocoEvaluator(truth, ["keypoints"], engine, "all", keypoint_sigmas=sigmas)
    evaluator.add_results(results)
    found = evaluator.evaluate()
    expected = slow_numbers(truth, results, sigmas)
    assert [f"keypoints/{name}" for name in statistics(iou_type="keypoints")] == list(found)
    assert expected["AP"] > 0.1
    for name, value in expected.items():
        assert found[f"keypoints/{name}"] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_seventeen_keypoints_have_the_sigmas_of_coco():
    truth, results = problem(0, names=17)
    numbers = []
    for engine in ENGINES:
        evaluator = CocoEvaluator(truth, ["keypoints"], engine, "all")
        evaluator.add_results(results)
        numbers.append(evaluator.evaluate())
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-12, nan_ok=True)
    expected = slow_numbers(truth, results, list(COCO_SIGMAS))
    assert numbers[0]["keypoints/AP"] == pytest.approx(expected["AP"], abs=1e-9)
    official = Params("keypoints")
    assert sigmas_of(17) == list(COCO_SIGMAS) == pytest.approx(official.kpt_oks_sigmas.tolist(), rel=1e-12)
    assert official.maxDets == [COCO_KEYPOINT_LIMIT]
    assert sigmas_of(4) == [0.05] * 4
    for wrong in ([0.1], [0.1, -1, 0.1], [0.1, math.nan, 1]):
        with pytest.raises(ValueError, match="a number above 0 for each of 3 keypoints"):
            sigmas_of(3, wrong)


def batch_of(truth: dict, results: list[dict], most: int, corners: bool) -> tuple[Batch, Detections]:
    """The results as a detector gives them: on a canvas, in half the pixels of the files."""
    images = truth["images"]
    room, ids = 30, [category["id"] for category in truth["categories"]]
    boxes, scores = torch.zeros(len(images), room, 4), torch.zeros(len(images), room, dtype=torch.float64)
    labels = torch.full((len(images), room), IGNORE)
    points = torch.zeros(len(images), room, most, 3, dtype=torch.float64)
    for i, image in enumerate(images):
        own = [result for result in results if result["image_id"] == image["id"]]
        for k, result in enumerate(own):
            own_points = torch.tensor(result["keypoints"], dtype=torch.float64).view(-1, 3)
            own_points[:, :2] = (own_points[:, :2] + (0 if corners else 0.5)) / 2
            points[i, k, : len(own_points)] = own_points
            points[i, k, len(own_points) :] = 999  # of keypoints that the class does not have
            boxes[i, k], scores[i, k] = torch.tensor([1.0, 2, 30, 40]), result["score"]
            labels[i, k] = ids.index(result["category_id"])
    sizes = torch.tensor([[one["height"], one["width"]] for one in images])
    batch = Batch(torch.zeros(len(images), 3, 8, 8), sizes // 2, sizes, torch.tensor([one["id"] for one in images]))
    return batch, Detections(boxes, scores, labels, keypoints=points)


@pytest.mark.parametrize("corners", [False, True])
def test_detections_of_a_batch_are_scored_as_their_results(corners):
    truth, results = problem(1)
    expected = CocoEvaluator(truth, ["keypoints"], "pycocotools", "all")
    expected.add_results(results)
    evaluator = CocoEvaluator(truth, ["bbox", "keypoints"], "hotcoco", "all", pixel_corners=corners)
    evaluator.add(*batch_of(truth, results, 5, corners))
    found = evaluator.evaluate()
    for name, value in expected.evaluate().items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True)
    by_score = {result["score"]: result for result in results}
    for result in evaluator.results("keypoints"):
        assert set(result) == {"image_id", "category_id", "score", "keypoints"}
        assert result["keypoints"] == pytest.approx(by_score[result["score"]]["keypoints"])
    assert "bbox/AP" in found


def test_results_survive_a_file_and_a_merge(tmp_path):
    truth, results = problem(2)
    half = [r for r in results if r["image_id"] < 50], [r for r in results if r["image_id"] >= 50]
    parts = [CocoEvaluator(truth, ["keypoints"], "hotcoco", "all") for _ in range(2)]
    for part, own in zip(parts, half, strict=True):
        write_results(tmp_path / "results.json", own)
        part.add_results(read_results(tmp_path / "results.json"))
    parts[0].merge([parts[1].state()])
    whole = CocoEvaluator(truth, ["keypoints"], "hotcoco", "all")
    whole.add_results(results)
    assert parts[0].evaluate() == pytest.approx(whole.evaluate(), abs=0, nan_ok=True)


def test_a_score_counts_objects_with_keypoints():
    truth, results = problem(0)
    evaluator = CocoEvaluator(truth, ["keypoints"], "hotcoco", "all")
    evaluator.add_results(results)
    evaluator.evaluate()
    counts = [
        sum(o["category_id"] == id and not o["iscrowd"] and o["num_keypoints"] > 0 for o in truth["annotations"])
        for id in (3, 8)
    ]
    assert [row["count"] for row in evaluator.per_class("keypoints")] == counts


def test_an_evaluation_without_detections_is_zero():
    for engine in ENGINES:
        assert CocoEvaluator(problem(0)[0], ["keypoints"], engine, "all").evaluate()["keypoints/AP"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [1, 2, 2]}, "keypoints are not three numbers for each name"),
        ({"keypoints": [1, 2, 7] * 5}, "third number is not 0, 1 or 2"),
        ({"keypoints": [math.nan, 2, 2] * 5}, "NaN, infinite or huge"),
    ],
)
def test_a_ground_truth_with_wrong_keypoints_is_rejected(change, message):
    truth, _ = problem(0)
    truth["annotations"] = [truth["annotations"][0] | {"category_id": 3} | change]
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(truth, ["keypoints"])


def test_a_ground_truth_or_a_detector_without_keypoints_is_rejected():
    truth, results = problem(0)
    nameless = copy.deepcopy(truth)
    for category in nameless["categories"]:
        del category["keypoints"]
    with pytest.raises(ValueError, match="no category lists keypoints"):
        CocoEvaluator(nameless, ["keypoints"])
    evaluator = CocoEvaluator(truth, ["keypoints"])
    batch, found = batch_of(truth, results, 5, False)
    for wrong, number in (
        (found._replace(keypoints=None), 0),
        (found._replace(keypoints=found.keypoints[:, :, :2]), 2),
    ):
        with pytest.raises(ValueError, match=f"the ground truth has 5 keypoints, the detector {number}"):
            evaluator.add(batch, wrong)
    with pytest.raises(ValueError, match="result 0: keypoints are 3 numbers, but must be 15"):
        evaluator.add_results([results[0] | {"category_id": 3, "keypoints": [1, 2, 0.5]}])


def test_keypoints_that_are_not_finite_are_dropped_and_counted():
    truth, results = problem(0)
    evaluator = CocoEvaluator(truth, ["keypoints"], "hotcoco", "all")
    spoilt = results[0] | {"keypoints": [math.nan, *results[0]["keypoints"][1:]]}
    evaluator.add_results([spoilt, *results[1:]])
    assert evaluator.dropped == 1
    expected = CocoEvaluator(truth, ["keypoints"], "hotcoco", "all")
    expected.add_results(results[1:])
    assert evaluator.evaluate() == pytest.approx(expected.evaluate(), abs=0, nan_ok=True)
