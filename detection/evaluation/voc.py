"""Average precision of PASCAL VOC (development kit of 2012, section 4.4): the area under the curve at IoU 0.5.

It differs from COCO's AP50 in three ways:

* VOC compares a detection with the object of largest overlap, even if that object is matched already. COCO compares it
  with the best unmatched object.
* VOC integrates precision over all recall values, COCO over 101 of them.
* VOC counts all detections, COCO counts 100 per class and image.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def voc_ap50(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return AP at IoU 0.5 for each category with objects, by category ID.

    Crowds correspond to VOC's difficult objects: a detection of one is neither right nor wrong. Boxes are continuous,
    as in COCO; the function does not add the extra pixel of the development kit.

    Args:
        ground_truth: from :func:`~detection.evaluation.ground_truth.clean_ground_truth`.
        results: COCO result dicts with ``bbox`` and finite numbers.
    """
    truth: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in ground_truth["annotations"]:
        truth[annotation["category_id"], annotation["image_id"]].append(annotation)
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        found[result["category_id"], result["image_id"]].append(result)
    images: dict[int, set[int]] = defaultdict(set)
    for category, image in [*truth, *found]:
        images[category].add(image)
    precision = {}
    for category in sorted(images):
        objects = sum(not a["iscrowd"] for image in images[category] for a in truth.get((category, image), ()))
        if not objects:
            continue
        matched = [_match(found.get((category, i), []), truth.get((category, i), [])) for i in sorted(images[category])]
        scores, right, counted = (np.concatenate(column) for column in zip(*matched, strict=True))
        order = np.argsort(-scores[counted], kind="stable")
        precision[category] = area_under(right[counted][order], objects)
    return precision


def _match(
    found: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for the detections of one class in an image: scores, whether each is correct, whether it counts."""
    scores = np.array([result["score"] for result in found], dtype=np.float64)
    right, counted = np.zeros(len(found), dtype=bool), np.ones(len(found), dtype=bool)
    if found and truth:
        boxes = np.array([result["bbox"] for result in found], dtype=np.float64)
        objects = np.array([annotation["bbox"] for annotation in truth], dtype=np.float64)
        iou = coco_mask.iou(boxes, objects, [0] * len(truth))
        taken = set()
        for k in np.argsort(-scores, kind="stable").tolist():
            best = int(iou[k].argmax())
            if iou[k, best] < 0.5:
                continue
            if truth[best]["iscrowd"]:
                counted[k] = False
            elif best not in taken:
                right[k] = True
                taken.add(best)
    return scores, right, counted


def area_under(right: np.ndarray, objects: int) -> float:
    """Return the area under the precision-recall curve, with monotone precision; input is sorted by falling score."""
    hits = np.cumsum(right)
    recall = np.concatenate([[0.0], hits / objects])
    precision = hits / np.arange(1, len(hits) + 1)
    best_after = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * best_after).sum())
