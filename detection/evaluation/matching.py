"""Match images with hotcoco while they arrive, so that only the accumulation remains at the end."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import chain
from typing import Any

import numpy as np

from detection.evaluation.engines import hotcoco
from detection.evaluation.limits import COCO_LIMITS, Limits
from detection.evaluation.numbering import Numbering
from detection.memory import no_garbage_collection

Rows = tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]
"""The n detections of some images, in the order of the images:

* (n, 2) int64: image ID, category ID.
* (n, 5) float64: x, y, width, height, score.
* n RLEs for "segm"; the boxes are then those of :func:`boxes_of_areas`.
"""

_CHUNK = 256
"""Number of images to match at a time: enough to use all threads, and few enough to limit the memory."""


class Matching:
    """Match the images of one IoU type.

    It keeps no boxes or masks, only scores, classes and the matches at each threshold: 3 kB for an image with 100
    detections. The result is bit-identical to one evaluation of all images, whatever their order.

    Args:
        truth: from :func:`~detection.evaluation.ground_truth.clean_ground_truth`.
        iou_type: "bbox" or "segm".
        rows: function that returns the detections of images; called when they are matched, to limit the memory.
        limits: number of detections per class and image that count.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        iou_type: str,
        rows: Callable[[list[int]], Rows],
        limits: Limits = COCO_LIMITS,
    ) -> None:
        self.image_ids: set[int] = set()
        self._rows = rows
        self._masks = iou_type == "segm"
        self._images = {image["id"]: image for image in truth["images"]}
        self._annotations: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in truth["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._numbers = Numbering(truth)
        library = hotcoco("matching")
        parameters = library.Params(iou_type)
        parameters.max_dets = list(limits)
        categories = self._numbers.category_entries(truth["categories"])
        self._stream = library.StreamingEval(categories, iou_type, params=parameters)
        self._waiting: list[int] = []

    def add(self, image_ids: Iterable[int]) -> None:
        """Add new images, and match them as soon as there are enough."""
        self._waiting += image_ids
        self.image_ids.update(self._waiting)
        if len(self._waiting) >= _CHUNK:
            self._match_waiting()

    def scores(self, rest: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return precision and recall of the added images and of ``rest``.

        The arrays are those of :func:`~detection.evaluation.engines.score`.
        The images of ``rest`` are matched only for this call, so their detections can still change.
        """
        self._match_waiting()
        stream = copy.copy(self._stream)  # a finalized stream accepts no more images
        self._update(stream, [*rest])
        evaluation = stream.finalize()
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])

    def state(self) -> tuple[set[int], bytes]:
        """Return image IDs and matches, for :meth:`merge` in another process."""
        self._match_waiting()
        return self.image_ids, self._stream.to_bytes()

    def merge(self, state: tuple[set[int], bytes], known: Set[int]) -> None:
        """Add the matches of another instance, unless it has a known image, which would count twice."""
        image_ids, matches = state
        if not image_ids & known:
            kind = type(self._stream)
            self._stream = kind.merge([self._stream, kind.from_bytes(matches)])
            self.image_ids |= image_ids

    def _match_waiting(self) -> None:
        self._update(self._stream, self._waiting)
        self._waiting = []

    def _update(self, stream: Any, image_ids: list[int]) -> None:
        with no_garbage_collection():
            for start in range(0, len(image_ids), _CHUNK):
                part = image_ids[start : start + _CHUNK]
                annotations = self._numbers.entries(chain.from_iterable(self._annotations[id] for id in part))
                images = self._numbers.image_entries(self._images[id] for id in part)
                ids, rows, masks = self._rows(part)
                of_images, of_categories = self._numbers.columns(ids[:, 0], ids[:, 1])
                found = {"segmentation": masks} if self._masks else {}
                stream.update(images, annotations, np.column_stack([of_images, rows, of_categories]), **found)


def boxes_of_areas(areas: np.ndarray) -> np.ndarray:
    """Return a box (n, 4) with the area of each mask, so that hotcoco assigns the right size range.

    hotcoco uses the area of the box if there is one, and its array interface requires a box.
    """
    boxes = np.zeros((len(areas), 4))
    boxes[:, 2], boxes[:, 3] = areas, 1
    return boxes
