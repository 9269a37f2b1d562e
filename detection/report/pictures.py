"""Draw the images of a report: found and missed objects, false positives, and annotations to check."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from detection.coco.keypoints import PIXEL_CENTRE
from detection.data.bands import read_bands
from detection.data.image import MAX_PIXELS, read_bytes, read_image
from detection.data.names import image_path
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import hotcoco_evaluation
from detection.evaluation.found import box_of
from detection.visualize import Color, draw, stretched

if TYPE_CHECKING:
    from detection.report.analysis import Suspect

LABEL_ROOM = 3.0
"""A label is drawn only on boxes with at least this many times its area."""

TINT = 0.2
"""Weight of the colour inside masks: low, so that the objects are visible."""

FOUND: Color = (30, 190, 90)
MISSED: Color = (240, 50, 70)
WRONG: Color = (255, 150, 0)
IGNORED: Color = (150, 150, 160)

LEGEND = {
    "true positive (found)": FOUND,
    "false negative (missed)": MISSED,
    "false positive": WRONG,
    "ignored (crowd, or beyond the limit of detections)": IGNORED,
}
"""Colours on the images of a report, by their meaning."""

_COLORS = {"tp": FOUND, "matched": FOUND, "fn": MISSED, "fp": WRONG}


@dataclass(frozen=True)
class Picture:
    """An image for a page."""

    url: str
    """A JPEG as a data URL."""
    stretched: bool = False
    """Whether the contrast was stretched, because the image is dark."""


class Pictures:
    """Draw images with their objects and detections, coloured by whether they match at IoU 0.5.

    Args:
        folder: folder of the images.
        iou_type: draw masks for "segm", and keypoints for "keypoints".
        threshold: detections with a lower score are not drawn.

    Raises:
        ValueError: hotcoco is not installed.
    """

    def __init__(self, evaluator: CocoEvaluator, folder: Path, iou_type: str, threshold: float) -> None:
        self._folder, self._iou_type = folder, iou_type
        self._categories = evaluator.categories
        truth = evaluator.truth(iou_type)
        results = [r for r in evaluator.results(iou_type) if r["score"] >= threshold]
        found = hotcoco_evaluation(truth, results, iou_type, evaluator.max_detections).image_diagnostics()
        # hotcoco numbers detections from 1, in their order.
        colored = [r | {"color": _color(found["dt_status"], k)} for k, r in enumerate(results, 1)]
        self._truth = _by_image(a | {"color": _color(found["gt_status"], a["id"])} for a in truth["annotations"])
        self._found = _by_image(colored)

    def truth_and_prediction(self, image_id: int, file_name: str, width: int = 1000) -> tuple[Picture, Picture] | None:
        """Draw the ground truth, and the detections.

        Returns:
            Two images, at most ``width`` pixels wide; None if the file cannot be read.
        """
        image = self._read(file_name)
        if image is None:
            return None
        seen, changed = stretched(image)
        truth = self._draw(seen, self._truth.get(image_id, []), scored=False)
        found = self._draw(seen, self._found.get(image_id, []), scored=True)
        return Picture(data_url(truth, width), changed), Picture(data_url(found, width), changed)

    def outcome(self, image_id: int, file_name: str, width: int = 800) -> Picture | None:
        """Draw the detections and the missed objects into one image; None if the file cannot be read."""
        image = self._read(file_name)
        if image is None:
            return None
        seen, changed = stretched(image)
        missed = [one | {"score": 0.0} for one in self._truth.get(image_id, []) if one["color"] == MISSED]
        return Picture(data_url(self._draw(seen, [*self._found.get(image_id, []), *missed], None), width), changed)

    def suspect(self, suspect: "Suspect", width: int = 640) -> Picture | None:
        """Draw the place of a suspect with its box; None if the file cannot be read."""
        image = self._read(suspect.file_name)
        if image is None:
            return None
        x, y, w, h = suspect.box
        margin = 0.5 * max(w, h) + 16
        left, top = max(0, int(x - margin)), max(0, int(y - margin))
        right, bottom = int(x + w + margin), int(y + h + margin)
        box = np.array([[x - left, y - top, x + w - left, y + h - top]])
        crop, changed = stretched(image[top:bottom, left:right])
        return Picture(
            data_url(draw(crop, box, np.zeros(1, dtype=int), None, None, [""], colors=[WRONG]), width), changed
        )

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

    def _draw(self, image: np.ndarray, objects: Sequence[dict[str, Any]], scored: bool | None) -> np.ndarray:
        """Draw objects; ``scored`` None draws no labels, because missed objects are among the detections."""
        label = {id: k for k, id in enumerate(self._categories.ids)}
        height, width = image.shape[:2]
        masks = None
        if self._iou_type == "segm":
            masks = [_rle(one["segmentation"], height, width) for one in objects]
        points = None
        if self._iou_type == "keypoints":
            points = _points(objects, self._categories.keypoints)
        boxes = np.array([box_of(one) for one in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([label[one["category_id"]] for one in objects], dtype=int)
        scores = np.array([one["score"] for one in objects]) if scored is not False else None
        return draw(
            image, boxes, labels, scores, masks, self._categories.names,
            with_boxes=masks is None, with_names=scored is not None, with_scores=bool(scored),
            colors=[one["color"] for one in objects], tint=TINT, label_room=LABEL_ROOM,
            keypoints=points, skeletons=self._categories.skeletons,
        )  # fmt: skip


def data_url(image: np.ndarray, width: int) -> str:
    """Encode an image as a JPEG inside an address.

    Args:
        image: (H, W, 3) uint8 RGB; reduced to ``width`` pixels if it is wider.
    """
    if image.shape[1] > width:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _color(statuses: Mapping[int, str], number: int) -> Color:
    return _COLORS.get(statuses.get(number, ""), IGNORED)


def _by_image(objects: Any) -> dict[int, list[dict[str, Any]]]:
    images: dict[int, list[dict[str, Any]]] = {}
    for one in objects:
        images.setdefault(one["image_id"], []).append(one)
    return images


def _rle(segmentation: Any, height: int, width: int) -> Mapping[str, Any]:
    """Return a COCO RLE of the image's size; empty if the image file has another orientation than the annotations."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    fits = tuple(segmentation["size"]) == (height, width)
    return segmentation if fits else {"size": [height, width], "counts": [height * width]}


def _points(objects: Sequence[Mapping[str, Any]], most: int) -> np.ndarray:
    """Return the keypoints of annotations or results, (n, N, 3), at the centres of their pixels."""
    points = np.zeros((len(objects), most, 3))
    for own, one in zip(points, objects, strict=True):
        given = np.reshape(one["keypoints"], (-1, 3))
        own[: len(given)] = given
    return points + [PIXEL_CENTRE, PIXEL_CENTRE, 0]
