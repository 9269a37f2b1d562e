"""A small COCO-format data set with every kind of object, written by code; fixtures for ``conftest.py`` files."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask


def write_dataset(folder: Path, **changes: Any) -> Path:
    """Four images, 80 x 60 to 40 x 90; returns the annotation file. ``changes`` replace parts of its content."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    sizes = [(60, 80), (90, 40), (64, 64), (50, 70)]
    images = []
    for i, (height, width) in enumerate(sizes):
        small = generator.integers(0, 255, (height // 10, width // 10, 3), np.uint8)
        cv2.imwrite(str(folder / f"images/{i}.png"), cv2.resize(small, (width, height)))
        images.append({"id": 100 + i, "file_name": f"{i}.png", "height": height, "width": width})
    ring = np.zeros((60, 80), np.uint8)
    cv2.circle(ring, (50, 30), 15, 1, 5)
    packed = coco_mask.encode(np.asfortranarray(ring))
    crowd = np.zeros((90, 40), np.uint8)
    crowd[20:60, 5:35] = 1
    ends = np.flatnonzero(np.diff(crowd.ravel(order="F"))) + 1
    runs = np.diff([0, *ends.tolist(), crowd.size]).tolist()
    content: dict[str, Any] = {
        "images": images,
        "categories": [{"id": 7, "name": "ring"}, {"id": 3, "name": "square"}],
        "annotations": [
            {"id": 1, "image_id": 100, "category_id": 3, "bbox": [10, 20, 20, 10], "iscrowd": 0, "area": 200,
             "segmentation": [[10, 20, 30, 20, 30, 30, 10, 30]]},
            {"id": 2, "image_id": 100, "category_id": 7, "bbox": [float(v) for v in coco_mask.toBbox(packed)],
             "segmentation": {"size": [60, 80], "counts": packed["counts"].decode()}},
            {"id": 3, "image_id": 101, "category_id": 3, "bbox": [5, 20, 30, 40], "iscrowd": 1,
             "segmentation": {"size": [90, 40], "counts": runs}},
            {"id": 4, "image_id": 102, "category_id": 3, "bbox": [30, 30, 30, 30],
             "segmentation": [[30, 30, 60, 30, 45, 60]]},
        ],
    }  # fmt: skip
    content.update(changes)
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(name="write_dataset")
def _write_dataset():
    return write_dataset


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """The annotation file of the data set as it is; images beside it in ``images``."""
    return write_dataset(tmp_path_factory.mktemp("small"))
