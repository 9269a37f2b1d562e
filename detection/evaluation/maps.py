"""Score semantic and panoptic predictions, image by image and across processes.

H x W image   K semantic classes   C panoptic classes.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from detection.categories import Categories
from detection.coco.patches import rle_to_patch
from detection.evaluation import confusion, panoptic
from detection.fast.pasting import encode_masks, rounded_frames
from detection.foreign import cell
from detection.ops import boxes as box_ops
from detection.ops.panoptic import Segment, merge, panoptic_categories
from detection.ops.semantic import label_map
from detection.structures import IGNORE, Batch, Detections


class Truth(Protocol):
    """The ground truth of the images of a split, from their files."""

    categories: Categories
    """The K semantic classes."""

    def semantic(self, image_id: int) -> np.ndarray:
        """Return the semantic map of an image, (H, W) uint8."""

    def panoptic(self, image_id: int) -> tuple[np.ndarray, list[Segment]]:
        """Return the segments of an image: (H, W) int32 and a list."""


class Merging(NamedTuple):
    """How objects and a semantic map become segments."""

    overlap: float
    stuff_area: int
    score: float


class MapEvaluator:
    """Collect the scores of semantic maps and, with ``merging``, of panoptic segments.

    The score covers the images that you added. If you add an image twice, on one rank or on two, the first time counts.

    Args:
        truth: ground truth.
        things: classes of objects; only for panoptic segments.
        merging: settings for segments; None scores only semantic maps.
        rounded: the detector rounds boxes before it pastes masks.
    """

    def __init__(
        self, truth: Truth, things: Categories | None = None, merging: Merging | None = None, rounded: bool = False
    ) -> None:
        self.truth, self.merging, self.rounded = truth, merging, rounded
        self.things = things
        self.num_things = 0 if things is None else len(things)
        self.num_classes = self.num_things + len(truth.categories) - 1
        self.reset()

    def reset(self) -> None:
        """Remove all images."""
        self._pixels: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # entries of the confusion matrix, not zero
        self._segments: dict[int, np.ndarray] = {}

    def add(self, batch: Batch, detections: Detections) -> None:
        """Add the predictions for a batch; skip filler images (``image_ids`` is IGNORE)."""
        sizes, original_sizes = batch.sizes.cpu(), batch.original_sizes.cpu()
        for i, image_id in enumerate(batch.image_ids.tolist()):
            if image_id == IGNORE or image_id in self._pixels:
                continue
            one, semantic = detections.image(i).cpu(), predicted_map(batch, detections, i)
            boxes = box_ops.rescale(one.boxes[None].double(), sizes[i : i + 1], original_sizes[i : i + 1])[0]
            self.add_image(image_id, one._replace(boxes=boxes), semantic)

    def add_image(self, image_id: int, found: Detections, semantic: np.ndarray) -> None:
        """Add the predictions for an image.

        Args:
            found: its objects, on the CPU, with boxes in pixels of its file.
            semantic: its semantic map, (H, W) uint8.
        """
        matrix = confusion.confusion(self.truth.semantic(image_id), semantic, len(self.truth.categories)).ravel()
        entries = np.flatnonzero(matrix)
        self._pixels[image_id] = entries, matrix[entries]
        if self.merging is not None:
            guess = segments_of(found, semantic, self.merging, self.rounded)
            numbers = self.num_things, self.num_classes
            self._segments[image_id] = panoptic.compare(*self.truth.panoptic(image_id), *guess, *numbers)

    @property
    def pixels(self) -> Mapping[int, tuple[np.ndarray, np.ndarray]]:
        """Entries of the confusion matrix of each image that are not zero: their places in (K * K), and pixels."""
        return self._pixels

    @property
    def segments(self) -> Mapping[int, np.ndarray]:
        """The counts (C, 4) of the segments of each image."""
        return self._segments

    def state(self) -> dict[str, Any]:
        """Return what was collected in a picklable form, for :meth:`merge`."""
        return {"pixels": self._pixels, "segments": self._segments}

    def merge(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Add the states of other evaluators; if several have the same image, the first one counts."""
        for state in states:
            self._pixels = {**state["pixels"], **self._pixels}
            self._segments = {**state["segments"], **self._segments}

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix of all images, (K, K) int64; rows are true classes."""
        total = np.zeros(len(self.truth.categories) ** 2, dtype=np.int64)
        for entries, numbers in self._pixels.values():
            total[entries] += numbers
        return total.reshape(len(self.truth.categories), -1)

    @property
    def counts(self) -> np.ndarray:
        """The counts of segments of all images, (C, 4) float64; see :mod:`detection.evaluation.panoptic`."""
        ordered = (self._segments[image_id] for image_id in sorted(self._segments))  # sums do not depend on the ranks
        return panoptic.summed(ordered, self.num_classes)

    def tables(self) -> dict[str, str]:
        """Return the scores of each class as CSV text: ``semantic``, and with segments ``panoptic``."""
        own, matrix = self.truth.categories, self.matrix
        rows: list[tuple[Any, ...]] = [("id", "name", "IoU", "accuracy", "pixels")]
        scores = confusion.per_class(matrix).tolist()
        rows += zip(own.ids, own.names, *zip(*scores, strict=True), matrix.sum(axis=1).tolist(), strict=True)
        found = {"semantic": csv_text(rows)}
        if self.merging is not None and self.things is not None:
            both, counts = panoptic_categories(self.things, own), self.counts
            scores = panoptic.per_class(counts).tolist()
            numbers = counts[:, 1:].astype(int).T.tolist()
            rows = [("id", "name", "PQ", "SQ", "RQ", "matched", "wrong", "missed")]
            rows += zip(both.ids, both.names, *zip(*scores, strict=True), *numbers, strict=True)
            found["panoptic"] = csv_text(rows)
        return found

    def evaluate(self) -> dict[str, float]:
        """Return all scores as fractions: ``semantic/mIoU`` ..., and with segments ``panoptic/PQ`` ..."""
        found = {f"semantic/{name}": value for name, value in confusion.scores(self.matrix).items()}
        if self.merging is not None:
            numbers = panoptic.quality(self.counts, self.num_things)
            found |= {f"panoptic/{name}": value for name, value in numbers.items()}
        return found


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV; names cannot become formulas of a spreadsheet."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([cell(one, None) if isinstance(one, str) else one for one in row] for row in rows)
    return text.getvalue()


def predicted_map(batch: Batch, detections: Detections, i: int) -> np.ndarray:
    """Return the semantic map of the ``i``-th image at the size of its file, (H, W) uint8."""
    assert detections.semantic is not None
    logits, (height, width) = detections.semantic[i], batch.original_sizes[i].tolist()
    factor, (rows, columns) = batch.images.shape[2] // logits.shape[1], batch.sizes[i].tolist()
    return label_map(logits, factor, (rows, columns), (height, width)).cpu().numpy()


def segments_of(
    found: Detections, semantic: np.ndarray, merging: Merging, rounded: bool = False
) -> tuple[np.ndarray, list[Segment]]:
    """Return the segments of an image: (H, W) int32 and a list.

    Args:
        found: its objects, on the CPU, with boxes in pixels of its file.
        semantic: its semantic map, (H, W) uint8.
        merging: settings.
        rounded: round boxes before pasting masks.
    """
    assert found.masks is not None
    keep = (found.scores >= merging.score) & found.boxes.isfinite().all(dim=1)
    scores, boxes, labels, masks = found.scores[keep], found.boxes[keep], found.labels[keep], found.masks[keep]
    frames = rounded_frames(boxes, masks.shape[-1]) if rounded else boxes
    patches = [rle_to_patch(rle) for rle in encode_masks(masks, frames, *semantic.shape)]
    return merge(patches, scores.double().numpy(), labels.numpy(), semantic, *merging)
