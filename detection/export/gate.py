"""The parity gate: run a detector and its export on the same images, and compare what they find.

n, m detections.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from detection.export.program import exportable
from detection.inference.detect import detect, encoded, take
from detection.models.detector import Detector
from detection.structures import Detections
from detection.wording import plural

FAR = 1.0
"""Detections of one class that are farther apart, in pixels, are two detections."""


@dataclass(frozen=True)
class Tolerances:
    """Largest differences that pass."""

    boxes: float = 0.01
    """Of a coordinate, in pixels of the image."""
    scores: float = 1e-4
    masks: float = 1e-4
    """Of a probability of a mask."""


@dataclass(frozen=True)
class Difference:
    """How the detections of an image differ."""

    image: str
    found: int
    """Number of detections of the detector itself."""
    boxes: float
    """Largest difference of a coordinate, in pixels of the image."""
    scores: float
    """Largest difference of a score."""
    masks: float | None
    """Largest difference of a probability of a mask; None without a mask head."""
    mask_iou: float | None
    """Smallest IoU of the two masks of an object, in pixels of the image."""
    unmatched: int
    """Detections of either that the other lacks, or that have another class there."""
    at_cut: int
    """Unmatched detections that do not count: their score is at the score threshold or at the limit of detections."""
    unstable: bool = False
    """Rounding alone changes the detections by more: those of the detector in float64 do not pass either."""

    def passes(self, tolerances: Tolerances) -> bool:
        """Return whether all differences are within the tolerances."""
        masks = self.masks is None or self.masks <= tolerances.masks
        return self.boxes <= tolerances.boxes and self.scores <= tolerances.scores and masks and not self.unmatched


@dataclass(frozen=True)
class Gate:
    """The result of a comparison."""

    tolerances: Tolerances
    differences: tuple[Difference, ...]
    engine: str

    @property
    def passed(self) -> bool:
        """Whether every stable image passes, most images are stable, and one of these has a detection."""
        stable = [one for one in self.differences if not one.unstable]
        decides = 2 * len(stable) > len(self.differences) and any(one.found for one in stable)
        return decides and all(one.passes(self.tolerances) for one in stable)

    def line(self) -> str:
        """Return the result as a line of text."""
        stable = [one for one in self.differences if not one.unstable]
        boxes, scores = (max((getattr(one, name) for one in stable), default=0.0) for name in ("boxes", "scores"))
        unmatched, found = (sum(getattr(one, name) for one in stable) for name in ("unmatched", "found"))
        return (
            f"{'passed' if self.passed else 'FAILED'}: {plural(found, 'detection')} in "
            f"{plural(len(stable), 'image')}, boxes within {boxes:.1e} pixels, scores within {scores:.1e}, "
            f"unmatched: {unmatched}"
        )

    def summary(self) -> dict[str, Any]:
        """Return plain values, for the metadata of the file."""
        rows = [asdict(one) for one in self.differences]
        return {"passed": self.passed, "engine": self.engine, "tolerances": asdict(self.tolerances), "images": rows}


def run_gate(
    model: Detector,
    exported: Detector,
    images: Sequence[tuple[str, np.ndarray]],
    engine: str,
    tolerances: Tolerances | None = None,
) -> Gate:
    """Run both on the images, and compare.

    Images of one shape share a batch. If an image does not pass, the detector also runs in float64. If its own
    detections change by more than the tolerances, the image proves nothing, and is unstable. An example is an image of
    one color in a detector with group norm, which divides rounding errors by a standard deviation near zero.

    Args:
        model: the detector.
        exported: its export, loaded as a detector.
        images: name and pixels (H, W, C) of each.
        engine: what runs the export.
        tolerances: the defaults for float32 if None.
    """
    pixels = [image for _, image in images]
    pairs = zip(images, detect(model, pixels), detect(exported, pixels), strict=True)
    tolerances, found = tolerances or Tolerances(), []
    for (name, image), one, other in pairs:
        difference = compare(model, name, image.shape[:2], one, other)
        if not difference.passes(tolerances):
            exact = detect(exportable(model).double(), [image])[0]
            stable = compare(model, name, image.shape[:2], one, exact).passes(tolerances)
            difference = replace(difference, unstable=not stable)
        found.append(difference)
    return Gate(tolerances, tuple(found), engine)


def compare(
    model: Detector, name: str, size: Sequence[int], ours: Detections, theirs: Detections, near: float = 1e-4
) -> Difference:
    """Compare the detections of an image.

    Args:
        model: its config has the score threshold and the largest number of detections.
        name: of the image.
        size: height, width of the image.
        ours, theirs: from :func:`~detection.inference.detect.detect`.
        near: distance of a score from the cut, up to which a detection may be missing on one side.
    """
    mine, other = partners(ours, theirs)
    alone = torch.cat([_without(ours, mine), _without(theirs, other)])
    config = model.last_head.config
    full = min(len(ours.scores), len(theirs.scores)) >= config.detections
    cut = max([config.score_threshold] + ([float(min(ours.scores.min(), theirs.scores.min()))] if full else []))
    at_cut = int((alone <= cut + near).sum())
    one, two = take(ours, mine), take(theirs, other)
    masks, mask_iou = None, None
    if one.masks is not None and two.masks is not None:
        masks, mask_iou = _largest(one.masks - two.masks), _least_iou(model, one, two, size)
    boxes, scores = _largest(one.boxes - two.boxes), _largest(one.scores - two.scores)
    return Difference(name, len(ours.scores), boxes, scores, masks, mask_iou, len(alone) - at_cut, at_cut)


def partners(ours: Detections, theirs: Detections) -> tuple[Tensor, Tensor]:
    """Pair each detection with the nearest one of its class, the best scores first.

    Returns:
        Two index tensors of the same length, into ``ours`` and ``theirs``.
    """
    if not len(ours.labels) or not len(theirs.labels):
        none = torch.zeros(0, dtype=torch.int64)
        return none, none
    distance = (ours.boxes[:, None] - theirs.boxes[None]).abs().amax(dim=2)  # (n, m)
    distance = distance.masked_fill(ours.labels[:, None] != theirs.labels, torch.inf)
    pairs = []
    for i, row in enumerate(distance):  # a view: a column that is taken becomes infinite for all
        best = int(row.argmin())
        if row[best] <= FAR:
            pairs.append((i, best))
            distance[:, best] = torch.inf
    index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return index[:, 0], index[:, 1]


def _without(found: Detections, index: Tensor) -> Tensor:
    """Return the scores of the detections that are not in the index."""
    rest = torch.ones(len(found.scores), dtype=torch.bool)
    rest[index] = False
    return found.scores[rest]


def _largest(difference: Tensor) -> float:
    """Return the largest absolute value; infinite for NaN."""
    return float(difference.abs().nan_to_num(torch.inf).amax()) if difference.numel() else 0.0


def _least_iou(model: Detector, one: Detections, two: Detections, size: Sequence[int]) -> float:
    """Return the smallest IoU of the masks of pairs, pasted into the image; 1 for two empty masks."""
    rles = zip(*(encoded(model, found, size[0], size[1]) or [] for found in (one, two)), strict=True)
    ious = [
        1.0 if not coco_mask.area(a) and not coco_mask.area(b) else float(coco_mask.iou([a], [b], [0])[0, 0])
        for a, b in rles
    ]
    return min(ious, default=1.0)
