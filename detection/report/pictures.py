"""Pictures of a report: truth beside prediction, and detections that the annotations may lack."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from detection.data.bands import read_bands
from detection.data.image import MAX_PIXELS, read_bytes, read_image
from detection.data.names import image_path
from detection.evaluation.coco import CocoEvaluator
from detection.report.analysis import ImageRow, Suspect
from detection.visualize import draw, side_by_side


class Pictures:
    """Draws from what an evaluator has collected.

    Args:
        folder: where the images are.
        iou_type: draw masks for "segm".
        threshold: detections scored below are not drawn.
    """

    def __init__(self, evaluator: CocoEvaluator, folder: Path, iou_type: str, threshold: float) -> None:
        self._folder, self._iou_type = folder, iou_type
        self._categories = evaluator.categories
        self._truth = _by_image(evaluator.truth(iou_type)["annotations"])
        self._found = _by_image(r for r in evaluator.results(iou_type) if r["score"] >= threshold)

    def truth_and_prediction(self, row: ImageRow, width: int = 1100) -> str | None:
        """A data URL, or None where the image cannot be read."""
        image = self._read(row.file_name)
        if image is None:
            return None
        truth = self._draw(image, self._truth.get(row.image_id, []), scored=False)
        found = self._draw(image, self._found.get(row.image_id, []), scored=True)
        return data_url(side_by_side(truth, found), width)

    def suspect(self, suspect: Suspect, width: int = 320) -> str | None:
        """The place of a suspect as a data URL, with its box; or None where the image cannot be read."""
        image = self._read(suspect.file_name)
        if image is None:
            return None
        x, y, w, h = suspect.box
        margin = 0.5 * max(w, h) + 16
        left, top = max(0, int(x - margin)), max(0, int(y - margin))
        right, bottom = int(x + w + margin), int(y + h + margin)
        box = np.array([[x - left, y - top, x + w - left, y + h - top]])
        crop = image[top:bottom, left:right]
        return data_url(draw(crop, box, np.zeros(1, dtype=int), None, None, ["", ""]), width)

    def _read(self, name: str) -> np.ndarray | None:
        path = image_path(self._folder, name)
        if path is None:
            return None
        try:
            return read_image(path)
        except ValueError:
            return self._read_bands(path)

    @staticmethod
    def _read_bands(path: Path) -> np.ndarray | None:
        try:
            return read_bands(path, read_bytes(path), None, MAX_PIXELS)[0]
        except ValueError:
            return None

    def _draw(self, image: np.ndarray, objects: Sequence[dict[str, Any]], scored: bool) -> np.ndarray:
        label = {id: k for k, id in enumerate(self._categories.ids)}
        height, width = image.shape[:2]
        masks = None
        if self._iou_type == "segm":
            masks = [_rle(one["segmentation"], height, width) for one in objects]
        boxes = np.array([_box(one) for one in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([label[one["category_id"]] for one in objects], dtype=int)
        scores = np.array([one["score"] for one in objects]) if scored else None
        return draw(image, boxes, labels, scores, masks, self._categories.names)


def data_url(picture: np.ndarray, width: int) -> str:
    """A JPEG inside an address, at most ``width`` wide; the picture (H, W, 3) is uint8 RGB."""
    if picture.shape[1] > width:
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _by_image(objects: Any) -> dict[int, list[dict[str, Any]]]:
    images: dict[int, list[dict[str, Any]]] = {}
    for one in objects:
        images.setdefault(one["image_id"], []).append(one)
    return images


def _rle(segmentation: Any, height: int, width: int) -> Mapping[str, Any]:
    """A COCO RLE of the image's size; empty where the file has another orientation than the annotations."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    fits = tuple(segmentation["size"]) == (height, width)
    return segmentation if fits else {"size": [height, width], "counts": [height * width]}


def _box(one: dict[str, Any]) -> list[float]:
    return one["bbox"] if "bbox" in one else coco_mask.toBbox(one["segmentation"]).tolist()
