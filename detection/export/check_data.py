"""An annotated data set, on which the parity gate compares AP."""

import json
import math
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from detection.coco.annotations import Annotations, load_annotations
from detection.data.dataset import CocoDataset
from detection.data.presence import check_images
from detection.data.reading import Reading
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.limits import COCO_LIMITS, limits_up_to
from detection.export.accuracy import Accuracy
from detection.models.detector import Detector
from detection.models.mask_forms import has_pixel_corners, has_rounded_frames, iou_types, mask_config
from detection.models.panoptic import SemanticFPN
from detection.report.inputs import annotations_and_images
from detection.report.run import detect

MOST_COMPARED = 16
"""Number of images of a data set of which the gate compares each detection."""


class CheckData:
    """The annotated images of a data set.

    Args:
        data: a data set of any known form.
        split: which part of it.
        model: says what to read.

    Raises:
        ValueError: the data set cannot be used.
    """

    def __init__(self, data: str, model: Detector, split: str = "val") -> None:
        if isinstance(model, SemanticFPN):
            raise ValueError("a Semantic FPN finds no objects, so it has no AP; leave --check-data and --int8 out")
        file, folder = annotations_and_images(data, split, None, None)
        self.masks = mask_config(model) is not None
        self.annotations: Annotations = load_annotations(file, need_masks=self.masks)
        assert folder is not None
        self.folder = folder
        reading = Reading(channels=len(model.pixel_mean), depth=model.depth)
        self._images = CocoDataset(self.annotations, folder, reading=reading)
        check_images(self._images, "give a data set with its images")

    def samples(self, most: int = MOST_COMPARED) -> list[tuple[str, np.ndarray]]:
        """Return name and pixels of some images, spread over the data set."""
        count = len(self._images)
        places = sorted({round(k) for k in np.linspace(0, count - 1, min(most, count))})
        return [(self.annotations.file_name(k), self._images[k].image) for k in places]

    def compare(self, model: Detector, exported: Detector) -> Accuracy:
        """Return AP of both on all images."""
        return Accuracy(len(self.annotations), self.score(model), self.score(exported))

    def half(self, first: int) -> "CheckData":
        """Return every second image, from image ``first``, 0 or 1."""
        content = self.annotations.to_coco(range(first, len(self.annotations), 2))
        other = copy(self)
        with TemporaryDirectory() as place:
            file = Path(place) / self.annotations.path.name
            file.write_text(json.dumps(content), encoding="utf-8")
            other.annotations = load_annotations(file, need_masks=self.masks)
        other._images = CocoDataset(other.annotations, self.folder, reading=self._images.reading)
        return other

    def score(self, model: Detector) -> dict[str, float]:
        """Return AP of a detector by kind."""
        return self.ap_of(self.evaluated(model))

    def evaluated(self, model: Detector) -> CocoEvaluator:
        """Return an evaluator with a detector's detections in all images, with at least COCO's limit of detections."""
        types = [kind for kind in iou_types(model) if kind != "keypoints" or self.annotations.has_keypoints]
        limits = limits_up_to(max(COCO_LIMITS[-1], model.last_head.config.detections))
        truth: Any = self.annotations.to_coco()
        corners = has_pixel_corners(model)
        evaluator = CocoEvaluator(truth, types, "auto", "all", has_rounded_frames(model), limits, None, corners)
        detect(model, self.annotations, self.folder, evaluator)
        return evaluator

    def ap_of(self, evaluator: CocoEvaluator) -> dict[str, float]:
        """Return AP by kind.

        Raises:
            ValueError: the data have no object.
        """
        numbers = evaluator.evaluate()
        found = {kind: float(numbers[f"{kind}/AP"]) for kind in evaluator.iou_types}
        if any(map(math.isnan, found.values())):
            raise ValueError(f"{self.annotations.path}: has no object, so that AP is not known; give other data")
        return found
