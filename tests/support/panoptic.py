"""A panoptic data set of drawn rectangles: images, panoptic PNGs and JSON, label PNGs, instances."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.coco.panoptic import colours_of

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 5, "name": "sky", "isthing": 0},
    {"id": 7, "name": "dog", "isthing": 1},
    {"id": 9, "name": "road", "isthing": 0},
]
COLOURS = {1: (220, 60, 50), 5: (90, 150, 240), 7: (60, 200, 80), 9: (90, 90, 90)}


def write_panoptic(folder: Path, splits: dict[str, int] | None = None, size: tuple[int, int] = (64, 96)) -> Path:
    """Write splits with sky above road, up to two animals, and a column without labels at the right."""
    for number, (split, count) in enumerate((splits or {"train": 6, "val": 3}).items()):
        for name in (split, f"panoptic_{split}", f"labels_{split}"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": CATEGORIES}
        objects: list[dict[str, Any]] = []
        for k in range(count):
            image_id = 100 * number + k + 1
            ids, segments = draw(np.random.default_rng(image_id), *size, animals=k % 3)
            labels, picture = np.zeros(size, np.uint8), np.zeros((*size, 3), np.uint8)
            for one in segments:
                labels[ids == one["id"]] = one["category_id"]
                picture[ids == one["id"]] = COLOURS[one["category_id"]]
            picture = np.clip(picture + np.random.default_rng(k).normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
            entry = {"id": image_id, "file_name": f"{image_id:03d}.png", "height": size[0], "width": size[1]}
            content["images"].append(entry)
            png = {"image_id": image_id, "file_name": f"{image_id:03d}.png", "segments_info": segments}
            content["annotations"].append(png)
            for one in segments:
                if one["category_id"] in (1, 7):
                    rows, columns = np.nonzero(ids == one["id"])
                    x, y = int(columns.min()), int(rows.min())
                    w, h = int(columns.max()) + 1 - x, int(rows.max()) + 1 - y
                    objects.append({
                        "id": len(objects) + 1, "image_id": image_id, "category_id": one["category_id"],
                        "bbox": [x, y, w, h], "area": w * h, "iscrowd": one["iscrowd"],
                        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    })  # fmt: skip
            cv2.imwrite(str(folder / split / entry["file_name"]), picture[..., ::-1])
            cv2.imwrite(str(folder / f"panoptic_{split}" / entry["file_name"]), colours_of(ids)[..., ::-1])
            cv2.imwrite(str(folder / f"labels_{split}" / entry["file_name"]), labels)
        things = [{"id": one["id"], "name": one["name"]} for one in CATEGORIES if one["isthing"]]
        instances = {"images": content["images"], "annotations": objects, "categories": things}
        (folder / f"panoptic_{split}.json").write_text(json.dumps(content))
        (folder / f"instances_{split}.json").write_text(json.dumps(instances))
    (folder / "classes.json").write_text(json.dumps(CATEGORIES))
    return folder


def draw(
    generator: np.random.Generator, height: int, width: int, animals: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Segment IDs (H, W) and ``segments_info`` of an image; the IDs need three bytes."""
    ids = np.zeros((height, width), np.int32)
    ids[: height // 2], ids[height // 2 :] = 70_001, 258
    segments = [{"id": 70_001, "category_id": 5, "iscrowd": 0}, {"id": 258, "category_id": 9, "iscrowd": 0}]
    for k in range(animals):
        top, left = int(generator.integers(4, height - 30)), 4 + 40 * k
        ids[top : top + 24, left : left + 30] = 900 + k
        segments.append({"id": 900 + k, "category_id": (1, 7)[k % 2], "iscrowd": 0})
    ids[:, width - 6 :] = 0
    return ids, segments
