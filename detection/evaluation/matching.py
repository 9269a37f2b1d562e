"""Matching images as they come, by hotcoco: when the last one is there, only adding up is left.

Found: pairs of an image id and what was found there: for "bbox" an array (n, 7) float64 of image id, x, y, width,
height, score and category id; for "segm" n COCO result dicts.
"""

import copy
import gc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np

from detection.evaluation.engines import hotcoco

Found = Iterable[tuple[int, Any]]

_CHUNK = 64
"""Images matched at a time: enough for all threads, and few calls; too few for their dicts to need much memory."""


class Matching:
    """Images of one IoU type that are matched.

    Neither box nor mask is kept, only scores, classes and what matched at which threshold: 3 kB for an image of 100
    detections. The scores are bit-equal to those of one evaluation of everything, in whatever order the images came.

    Args:
        truth: from :func:`~detection.evaluation.ground_truth.clean_ground_truth`.
        iou_type: "bbox" or "segm".
    """

    def __init__(self, truth: Mapping[str, Any], iou_type: str) -> None:
        self.image_ids: set[int] = set()
        self._join = np.concatenate if iou_type == "bbox" else lambda parts: [*chain.from_iterable(parts)]
        self._images = {image["id"]: image for image in truth["images"]}
        self._annotations: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in truth["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._stream = hotcoco("matching").StreamingEval(truth["categories"], iou_type)
        self._waiting: dict[int, Any] = {}

    def add(self, found: Found) -> None:
        """Match images that were not matched before, as soon as there are enough of them."""
        self._waiting |= dict(found)
        self.image_ids |= self._waiting.keys()
        if len(self._waiting) >= _CHUNK:
            self._match_waiting()

    def scores(self, rest: Found) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall, as of :func:`~detection.evaluation.engines.score`, of what was matched and of ``rest``.

        The rest is matched for this once, so that it can still change.
        """
        self._match_waiting()
        stream = copy.copy(self._stream)  # one that was finished takes no more
        self._update(stream, rest)
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
        self._update(self._stream, self._waiting.items())
        self._waiting = {}

    def _update(self, stream: Any, found: Found) -> None:
        found = iter(found)
        with no_garbage_collection():
            while part := dict(islice(found, _CHUNK)):
                annotations = [*chain.from_iterable(self._annotations[id] for id in part)]
                stream.update([self._images[id] for id in part], annotations, self._join([*part.values()]))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Half a million dicts in a row make the collector look through all of them again and again (10x slower)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
