"""Measure the evaluation of detections and the encoding of masks, compared with hotcoco and torchvision.

The data are random: 5000 images of 640 x 480 with 7 objects on average, 80 classes, and 100 detections per image.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import hotcoco
from detection.evaluation.matching import Matching
from detection.fast.pasting import encode_masks
from detection.memory import no_garbage_collection
from detection.structures import Batch, Detections
from tools.benchmark.timing import in_turn

HEIGHT, WIDTH, CLASSES = 480, 640, 80


def evaluation_rows(rounds: int, images: int = 5000, detections: int = 100) -> list[dict[str, Any]]:
    """Return rows of the table: "what", "seconds", "ratio" and "rounds", as for the other parts.

    For this toolkit there are three times: clipping boxes or encoding masks for each batch, matching for each batch,
    and the work after the last batch. The time of hotcoco is that of ``load_res``, ``evaluate`` and ``accumulate`` with
    result dicts in memory. The ratio compares it with the last two times of this toolkit.
    """
    truth, batches = _made_up(images, detections)
    rows = []
    for iou_type, name in (("bbox", "boxes"), ("segm", "masks")):
        times: dict[str, list[float]] = {
            who: []
            for who in (f"ours, {name} as they come", "ours, matching as they come", "ours, at the end", "hotcoco")
        }
        for _ in range(rounds):
            evaluator = CocoEvaluator(truth, (iou_type,), engine="hotcoco")
            adding, matching = _add_all(evaluator, batches)
            end = _seconds(evaluator.evaluate)
            clean, results = evaluator.truth(iou_type), evaluator.results(iou_type)
            with no_garbage_collection():
                own = _seconds(lambda: _own(clean, results, iou_type))  # noqa: B023
            for seconds, one in zip(times.values(), (adding - matching, matching, end, own), strict=True):
                seconds.append(one)
        ratios = [own / (matching + end) for _, matching, end, own in zip(*times.values(), strict=True)]
        row = _row(f"evaluation, {images} x {detections} {name}", times)
        rows.append(row | {"ratio": {"hotcoco": round(statistics.median(ratios), 2)}})
    return [*rows, _encoding(max(rounds, 5), detections)]


def _row(what: str, times: Mapping[str, list[float]]) -> dict[str, Any]:
    return {
        "what": what,
        "seconds": {who: round(statistics.median(seconds), 4) for who, seconds in times.items()},
        "rounds": {who: [round(s, 4) for s in seconds] for who, seconds in times.items()},
    }


def _add_all(evaluator: CocoEvaluator, batches: Iterable[tuple[Batch, Detections]]) -> tuple[float, float]:
    """Add all batches; return the seconds in total, and the seconds of matching."""
    matching = 0.0
    plain = Matching.add

    def timed(self: Matching, image_ids: Iterable[int]) -> None:
        nonlocal matching
        matching += _seconds(lambda: plain(self, image_ids))

    with patch.object(Matching, "add", timed):
        whole = sum(_seconds(lambda: evaluator.add(batch, found)) for batch, found in batches)  # noqa: B023
    return whole, matching


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _own(truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str) -> None:
    library = hotcoco("the benchmark")
    known = library.COCO(truth)
    evaluation = library.COCOeval(known, known.load_res(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.eval["precision"]


def _encoding(rounds: int, detections: int) -> dict[str, Any]:
    """Measure the encoding of one image's masks, from 28 x 28 to RLE."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(detections, 2, generator=generator) * torch.tensor([WIDTH - 200.0, HEIGHT - 200.0])
    boxes = torch.cat([corners, corners + 20 + 180 * torch.rand(detections, 2, generator=generator)], dim=1)
    masks = _shapes(detections)

    def theirs() -> list[dict[str, Any]]:
        pasted = paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH))[:, 0] > 0.5
        return coco_mask.encode(np.asfortranarray(pasted.permute(1, 2, 0).numpy().astype(np.uint8)))

    steps: dict[str, Callable[[], object]] = {
        "ours": lambda: encode_masks(masks, boxes, HEIGHT, WIDTH),
        "torchvision, pycocotools": theirs,
    }
    found = in_turn(steps, rounds)
    row = _row(f"masks to RLE, {detections} in an image of {WIDTH} x {HEIGHT}", found.seconds)
    return row | {"ratio": {who: round(found.ratio(who), 2) for who in list(found.seconds)[1:]}}


def _made_up(images: int, detections: int) -> tuple[dict[str, Any], list[tuple[Batch, Detections]]]:
    """Return random ground truth, and detections near it or anywhere, in batches of four with the same few masks."""
    random = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": str(k)} for k in range(1, CLASSES + 1)],
        "annotations": [],
    }
    boxes, labels = np.zeros((images, detections, 4)), np.zeros((images, detections), dtype=np.int64)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for i in range(images):
        number = int(random.poisson(7))
        sides = np.exp(random.normal(4, 0.9, (number + 1, 2))).clip(4, [WIDTH - 2, HEIGHT - 2])
        objects = np.concatenate([random.random((number + 1, 2)) * ([WIDTH, HEIGHT] - sides), sides], axis=1)
        classes = random.integers(0, CLASSES, number + 1)
        for (x, y, w, h), label in zip(objects[:number].tolist(), classes[:number].tolist(), strict=True):
            outline = np.stack([x + w / 2 * (1 + np.cos(turn)), y + h / 2 * (1 + np.sin(turn))], axis=1)
            annotation = {"id": len(truth["annotations"]) + 1, "image_id": i + 1, "category_id": label + 1}
            annotation |= {"bbox": [x, y, w, h], "area": 0.78 * w * h, "segmentation": [outline.ravel().tolist()]}
            truth["annotations"].append(annotation | {"iscrowd": int(random.random() < 0.01)})
        near = random.integers(0, number + 1, detections)  # the last object is none
        place = objects[near] + 0.12 * random.normal(size=(detections, 4)) * np.tile(objects[near, 2:], 2)
        boxes[i] = np.concatenate([place[:, :2], place[:, :2] + place[:, 2:].clip(1)], axis=1)
        labels[i] = np.where(random.random(detections) < 0.7, classes[near], random.integers(0, CLASSES, detections))
    scores = -np.sort(-(random.random((images, detections)) ** 3), axis=1)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * images)
    whole = Detections(torch.tensor(boxes).float(), torch.tensor(scores).float(), torch.tensor(labels))
    masks = _shapes(4 * detections).view(4, detections, 28, 28)
    batches = []
    for start in range(0, images, 4):
        part = slice(start, start + 4)
        found = Detections(whole.boxes[part], whole.scores[part], whole.labels[part], masks[: len(sizes[part])])
        batch = Batch(torch.zeros(0), sizes[part], sizes[part], torch.arange(images)[part] + 1)
        batches.append((batch, found))
    return truth, batches


def _shapes(number: int) -> torch.Tensor:
    """Return probabilities (number, 28, 28) of round masks with one to six bulges."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    bulges = (torch.arange(number) % 6 + 1)[:, None, None]
    radius = 0.8 + 0.15 * torch.sin(bulges * torch.atan2(y, x) + bulges)
    return torch.sigmoid(8 * (radius - torch.hypot(x, y)))
