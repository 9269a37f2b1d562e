"""The published metrics, and small evaluations with equal scores, crowds, empty images and classes without objects."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

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

SIDE = 40


def blob(random: np.random.Generator, near: np.ndarray | None = None) -> np.ndarray:
    """A box x, y, width, height; close to another one if given."""
    if near is not None:
        box = near + random.integers(-3, 4, 4)
    else:
        box = np.concatenate([random.integers(0, 30, 2), random.integers(1, 20, 2)])
    return np.maximum(box, [0, 0, 1, 1])


def encoded(random: np.random.Generator, box: np.ndarray) -> dict[str, Any]:
    x, y, w, h = box
    frame = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    frame[y : y + h, x : x + w] = 1
    frame[y : y + h // 2, x : x + random.integers(0, 3)] = 0
    rle = coco_mask.encode(frame)
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


def make_problem(seed: int, iou_type: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A small problem full of equal scores, equal IoUs, crowds, empty images and classes without objects."""
    random = np.random.default_rng(seed)
    images = [{"id": int(i), "height": SIDE, "width": SIDE} for i in random.permutation(50)[:7]]
    categories = [{"id": i, "name": str(i)} for i in (3, 8, 90)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for _ in range(random.integers(0, 7)):
            box = blob(random)
            category = int(random.choice([3, 8] if seed % 3 else [3, 8, 90]))
            annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": image["id"]}
            annotation |= {
                "category_id": category,
                "bbox": box.tolist(),
                "area": float(box[2] * box[3] * random.choice([1, 30, 200])),
            }
            annotation |= {"iscrowd": int(random.random() < 0.2), "segmentation": encoded(random, box)}
            annotations.append(annotation)
            for _ in range(random.integers(0, 5)):
                found = box if random.random() < 0.3 else blob(random, box)
                shape = {"bbox": found.tolist()} if iou_type == "bbox" else {"segmentation": encoded(random, found)}
                label = category if random.random() < 0.8 else 90
                confidence = float(random.integers(1, 6)) / 5
                results.append({"image_id": image["id"], "category_id": label, "score": confidence, **shape})
    order = random.permutation(len(results))
    truth = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    return truth, [results[i] for i in order]


@pytest.fixture(scope="session")
def problem() -> Any:
    """The function that makes one from a seed and an IoU type: ground truth and results."""
    return make_problem


@pytest.fixture(scope="session")
def published() -> dict[str, list[float]]:
    """The twelve numbers of cocoapi's own example, by IoU type."""
    return PUBLISHED
