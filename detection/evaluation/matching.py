"""Matching images as they come, by hotcoco: when the last one is there, only adding up is left."""

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
"""What was found in some images, one after the other: an array (n, 2) int64 of image id and category id; one (n, 5)
float64 of x, y, width, height and score; and for "segm" n RLEs, whose boxes are those of :func:`boxes_of_areas`."""

_CHUNK = 256
"""Images matched at a time: enough for all threads, and few calls; too few for their dicts to need much memory."""


class Matching:
    """Images of one IoU type that are matched.

    Neither box nor mask is kept, only scores, classes and what matched at which threshold: 3 kB for an image of 100
    detections. The scores are bit-equal to those of one evaluation of everything, in whatever order the images came.

    Args:
        truth: from :func:`~detection.evaluation.ground_truth.clean_ground_truth`.
        iou_type: "bbox" or "segm".
        rows: of image ids; asked for when they are matched, so that no dict lives longer than that.
        limits: detections of a class in an image that count.
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
        """Match images that were not matched before, as soon as there are enough of them."""
        self._waiting += image_ids
        self.image_ids.update(self._waiting)
        if len(self._waiting) >= _CHUNK:
            self._match_waiting()

    def scores(self, rest: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall, as of :func:`~detection.evaluation.engines.score`, of what was matched and of ``rest``.

        The rest is matched for this once, so that it can still change.
        """
        self._match_waiting()
        stream = copy.copy(self._stream)  # one that was finished takes no more
        self._update(stream, [*rest])
        evaluation = stream.finalize()
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])

    def state(self) -> tuple[set[int], bytes]:
        """Image ids and matches, for :meth:`merge` in another process."""
        self._match_waiting()
        return self.image_ids, self._stream.to_bytes()

    def merge(self, state: tuple[set[int], bytes], known: Set[int]) -> None:
        """Take over what another one has matched, unless it has a known image, which would count twice."""
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
    """(n, 4): a box of each mask's area, by which hotcoco then sorts it into small, medium and large.

    It takes the area of the box where there is one, and masks beside an array need one.
    """
    boxes = np.zeros((len(areas), 4))
    boxes[:, 2], boxes[:, 3] = areas, 1
    return boxes
