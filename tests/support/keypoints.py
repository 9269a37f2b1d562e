"""A small data set with keypoints: a person with a nose and two eyes, and a square without any."""

from pathlib import Path
from typing import Any

from tests.support.coco_files import write_dataset

NAMES = ["nose", "left_eye", "right_eye"]
CATEGORIES = [
    {"id": 3, "name": "square"},
    {"id": 7, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]},
]


def person(number: int, points: list[float], **changes: Any) -> dict[str, Any]:
    """An annotation of a person in the first image, which is 80 x 60."""
    box = {"id": number, "image_id": 100, "category_id": 7, "bbox": [10, 20, 20, 10], "iscrowd": 0, "area": 200}
    return box | {"keypoints": points} | changes


def write_people(folder: Path, annotations: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """A labelled person, one without labelled keypoints, a square and a crowd; returns the annotation file."""
    if annotations is None:
        annotations = [
            person(1, [12, 22, 2, 20, 24, 1, 0, 0, 0], num_keypoints=2),
            person(2, [0] * 9, num_keypoints=0, bbox=[40, 20, 30, 30]),
            {"id": 3, "image_id": 101, "category_id": 3, "bbox": [5, 20, 30, 40], "iscrowd": 0},
            person(4, [30, 30, 2] * 3, image_id=102, bbox=[20, 20, 30, 40], num_keypoints=3),
            person(5, [0] * 9, image_id=103, num_keypoints=0, bbox=[5, 5, 40, 40], iscrowd=1),
        ]
    return write_dataset(folder, annotations=annotations, **({"categories": CATEGORIES} | changes))
