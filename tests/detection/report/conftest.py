"""A small evaluation: 24 images, three classes, and right, shifted, misclassified or invented detections."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.evaluation.coco import CocoEvaluator

NAMES = {2: "cat", 5: "dog", 9: "<bird>"}


def make_truth(images: int = 24, seed: int = 0) -> dict:
    generator = np.random.default_rng(seed)
    truth: dict = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in NAMES.items()]}
    for i in range(1, images + 1):
        truth["images"].append({"id": i, "height": 120, "width": 160, "file_name": f"{i}.png"})
        for _ in range(i % 5):
            x, y, w, h = (float(v) for v in generator.uniform([0, 0, 12, 12], [90, 60, 60, 50]).round(1))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": i,
                    "category_id": int(generator.choice([2, 5])),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    return truth


def make_results(truth: dict, seed: int = 1, noise: float = 2.0) -> list[dict]:
    generator = np.random.default_rng(seed)
    results = []
    for k, annotation in enumerate(truth["annotations"]):
        category = {2: 5, 5: 2}[annotation["category_id"]] if k % 7 == 0 else annotation["category_id"]
        x, y, w, h = annotation["bbox"]
        box = [float(v) for v in np.array([x, y, w, h]) + generator.normal(0, noise, 4).round(2)]
        score = round(generator.uniform(0.4, 1), 3)
        results.append({"image_id": annotation["image_id"], "category_id": category, "bbox": box, "score": score})
    for i in range(1, 25, 2):
        box = [float(v) for v in generator.uniform([0, 0, 10, 10], [90, 60, 60, 50]).round(2)]
        score = round(generator.uniform(0, 0.6), 3)
        results.append({"image_id": i, "category_id": int(generator.choice([2, 5])), "bbox": box, "score": score})
    return results


@pytest.fixture(scope="session")
def truth() -> dict:
    return make_truth()


@pytest.fixture(scope="session")
def results(truth: dict) -> list[dict]:
    return make_results(truth)


@pytest.fixture(scope="session")
def worse_results(truth: dict) -> list[dict]:
    return make_results(truth, noise=6.0)


@pytest.fixture(scope="session")
def evaluator(truth: dict, results: list[dict]) -> CocoEvaluator:
    pytest.importorskip("hotcoco", reason="the report is hotcoco's")
    evaluator = CocoEvaluator(truth, ["bbox"], image_ids="all")
    evaluator.add_results(results)
    return evaluator


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, truth: dict, results: list[dict]) -> Path:
    """The same as files: ``truth.json``, ``results.json``, ``images``."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "images").mkdir()
    for image in truth["images"]:
        pixels = np.random.default_rng(image["id"]).integers(0, 255, (120, 160, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / image["file_name"]), pixels)
    return folder
