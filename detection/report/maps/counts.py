"""What an evaluation of maps counts in each image, as files, and the scores of weighted images.

n images   K semantic classes   C panoptic classes.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.documents import read_text
from detection.evaluation import confusion, panoptic
from detection.evaluation.class_samples import draws
from detection.foreign import shown

PIXELS, SEGMENTS = "images_semantic.csv", "images_panoptic.csv"
"""Files with the counts of each image; a comparison needs them."""
LARGEST = 1 << 31
"""Bytes of a file at most."""
MOST_PIXELS = 1 << 48


@dataclass(frozen=True)
class Counts:
    """The counts of all images."""

    images: np.ndarray
    """(n,) int64 image IDs, ascending."""
    classes: int
    """K."""
    entries: np.ndarray
    """(e, 4) int64: place of the image, true class, predicted class, pixels."""
    segments: np.ndarray | None = None
    """(n, C, 4) float64, the columns of :mod:`detection.evaluation.panoptic`; None without segments."""
    things: int = 0
    """Number of classes of objects among C."""

    def __len__(self) -> int:
        return len(self.images)

    def matrix(self, weights: np.ndarray) -> np.ndarray:
        """Return the confusion matrix (K, K) for (n,) weights of the images."""
        image, true, found, pixels = self.entries.T
        total = np.bincount(true * self.classes + found, weights[image] * pixels, self.classes**2)
        return total.reshape(self.classes, self.classes)

    def kinds(self) -> tuple[str, ...]:
        """Return ``semantic`` and, with segments, ``panoptic``."""
        return ("semantic",) if self.segments is None else ("semantic", "panoptic")

    def numbers(self, kind: str, weights: np.ndarray) -> dict[str, float]:
        """Return the main scores of a kind of map as fractions."""
        if kind == "semantic":
            return confusion.scores(self.matrix(weights))
        assert self.segments is not None
        return panoptic.quality(np.tensordot(weights, self.segments, 1), self.things)

    def per_class(self, kind: str, weights: np.ndarray) -> np.ndarray:
        """Return IoU or PQ of each class, (K,) or (C,); NaN for a class that does not occur."""
        if kind == "semantic":
            return confusion.per_class(self.matrix(weights))[:, 0]  # type: ignore[no-any-return]
        assert self.segments is not None
        return panoptic.per_class(np.tensordot(weights, self.segments, 1))[:, 0]  # type: ignore[no-any-return]

    def of_image(self, kind: str) -> np.ndarray:
        """Return the pixel accuracy, or PQ over all segments, of each image, (n,); NaN without labels."""
        if kind == "panoptic":
            assert self.segments is not None
            iou, matched, wrong, missed = self.segments.sum(axis=1).T
            weight = matched + wrong / 2 + missed / 2
            return np.where(weight > 0, iou / np.maximum(weight, 0.5), np.nan)
        image, true, found, pixels = self.entries.T
        every = np.bincount(image, pixels, len(self))
        right = np.bincount(image, pixels * (true == found), len(self))
        return np.where(every > 0, right / np.maximum(every, 1), np.nan)

    def samples(self, kind: str, resamplings: int, seed: int = 0) -> Iterator[np.ndarray]:
        """Yield numbers and scores of the classes, for bootstrap samples of the images."""
        for weights in draws(len(self), resamplings, seed):
            yield self.values(kind, weights)

    def values(self, kind: str, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the numbers, then the scores of the classes."""
        weights = np.ones(len(self)) if weights is None else weights
        return np.array([*self.numbers(kind, weights).values(), *self.per_class(kind, weights)])


def write_counts(folder: Path, counts: Counts) -> list[str]:
    """Write the counts as CSV, and return the names of the files."""
    with open(folder / PIXELS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "true", "predicted", "pixels"])
        ids = counts.images[counts.entries[:, 0]]
        writer.writerows(zip(ids.tolist(), *counts.entries[:, 1:].T.tolist(), strict=True))
    if counts.segments is None:
        return [PIXELS]
    with open(folder / SEGMENTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "class", "IoU", "matched", "wrong", "missed"])
        for place, label in np.argwhere(counts.segments.any(axis=2)).tolist():
            iou, *numbers = counts.segments[place, label].tolist()
            writer.writerow([counts.images[place], label, repr(iou), *map(int, numbers)])
    return [PIXELS, SEGMENTS]


def read_counts(folder: Path, images: Sequence[int], classes: int, panoptic_classes: int, things: int) -> Counts:
    """Read the counts of an evaluation.

    Args:
        images: IDs of its images.
        classes: K.
        panoptic_classes: C; 0 without segments.
        things: number of classes of objects.

    Raises:
        ValueError: a file is missing or damaged.
    """
    ids = np.unique(np.array(images, dtype=np.int64))
    rows = _rows(folder / PIXELS, 4)
    entries = np.stack([_place(ids, rows[:, 0], folder / PIXELS), *rows[:, 1:].T], axis=1).astype(np.int64)
    if len(entries) and (entries.min() < 0 or entries[:, 1:3].max() >= classes or entries[:, 3].max() > MOST_PIXELS):
        raise ValueError(f"{folder / PIXELS}: has values out of range; run rcnn evaluate again")
    segments = None
    if panoptic_classes:
        rows, segments = _rows(folder / SEGMENTS, 6), np.zeros((len(ids), panoptic_classes, 4))
        place, label = _place(ids, rows[:, 0], folder / SEGMENTS), rows[:, 1].astype(np.int64)
        if len(rows) and (rows.min() < 0 or label.max() >= panoptic_classes):
            raise ValueError(f"{folder / SEGMENTS}: has values out of range; run rcnn evaluate again")
        segments[place, label] = rows[:, 2:]
    return Counts(ids, classes, entries, segments, things)


def _rows(path: Path, columns: int) -> np.ndarray:
    """Return the numbers of a file, (rows, columns) float64."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run rcnn evaluate again")
    try:
        rows = [[float(cell) for cell in row] for row in list(csv.reader(read_text(path, LARGEST).splitlines()))[1:]]
        found = np.array(rows, dtype=np.float64).reshape(len(rows), columns)
        if not np.isfinite(found).all():
            raise ValueError("a value is not finite")
        return found
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({shown(error, 80)}); run rcnn evaluate again") from error


def _place(ids: np.ndarray, wanted: np.ndarray, path: Path) -> np.ndarray:
    """Return the places of image IDs."""
    place = np.searchsorted(ids, wanted).clip(0, max(0, len(ids) - 1))
    if len(wanted) and (not len(ids) or (ids[place] != wanted).any()):
        raise ValueError(f"{path}: has an image that is not among those of report.json; run rcnn evaluate again")
    return place
