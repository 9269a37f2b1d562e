"""The parity gate: run a detector and its export on the same images, and compare what they find.

n, m detections.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from detection.export.accuracy import Accuracy, Quantised
from detection.export.full_masks import FullMasks
from detection.export.map_result import Maps
from detection.export.rows import pair, without
from detection.export.runtime import RunError
from detection.export.sensitivity import NOISES, ROOM, VAGUE, Movement, Sensitivity, precise, with_noise
from detection.inference.detect import detect, encoded, take
from detection.models.detector import Detector
from detection.models.panoptic import SemanticFPN
from detection.structures import Detections
from detection.wording import plural


@dataclass(frozen=True)
class Tolerances:
    """Largest differences that pass."""

    boxes: float = 0.01
    """Of a coordinate, in pixels of the image."""
    scores: float = 1e-4
    masks: float = 1e-4
    """Of a probability of a mask, or of a class of a pixel."""
    keypoints: float = 0.01
    """Of a coordinate of a keypoint, in pixels of the image."""


@dataclass(frozen=True)
class Difference:
    """How the detections of an image differ."""

    image: str
    found: int
    """Number of detections of the detector itself."""
    boxes: float
    """Largest difference of a coordinate, in pixels of the image, of detections that are not sensitive."""
    scores: float
    """Largest difference of a score, of these."""
    masks: float | None
    """Largest difference of a probability of a mask, of these; None without a mask head."""
    mask_iou: float | None
    """Smallest IoU of the two masks of a detection, of these, in pixels of the image."""
    unmatched: int
    """Detections of either that the other lacks, or that have another class there, or that differ too much."""
    at_cut: int
    """Unmatched detections that do not count: their score is at the score threshold or at the limit of detections."""
    sensitive: int = 0
    """Detections that move by more than the tolerances, or vanish, if rounding changes. They may differ as far."""
    vague: int = 0
    """Sensitive detections that vanish, or move by far more than the tolerances. Comparing them proves little."""
    noise: int = 0
    """Levels of noise in the image, which replaces the one before it."""
    keypoints: float | None = None
    """Largest difference of a coordinate of a keypoint, in pixels of the image; None without a keypoint head."""

    @property
    def decides(self) -> bool:
        """Whether at least half of the detections are neither vague nor, on both sides, unmatched at the cut."""
        return 2 * self.vague + self.at_cut <= max(self.found, 2)

    def passes(self, tolerances: Tolerances) -> bool:
        """Return whether all differences are within the tolerances."""
        masks = self.masks is None or self.masks <= tolerances.masks
        points = self.keypoints is None or self.keypoints <= tolerances.keypoints
        both = self.boxes <= tolerances.boxes and self.scores <= tolerances.scores
        return both and masks and points and not self.unmatched


@dataclass(frozen=True)
class Gate:
    """The result of a comparison."""

    tolerances: Tolerances
    differences: tuple[Difference, ...]
    engine: str
    accuracy: Accuracy | None = None
    """AP of both; None without annotations."""
    quantised: Quantised | None = None
    """For an INT8 export, which AP alone decides."""
    full: FullMasks | None = None
    """Masks of whole canvases; None if the file does not return them."""
    failure: str | None = None
    """Why the engine could not compute the file; None if it could."""
    maps: Maps | None = None
    """Semantic and panoptic maps; None for a detector without them. A Semantic FPN has nothing else to compare."""

    @property
    def last(self) -> list[Difference]:
        """The differences without those of images that another one replaces."""
        followers = [*self.differences[1:], None]
        return [one for one, after in zip(self.differences, followers, strict=False) if not (after and after.noise)]

    @property
    def passed(self) -> bool:
        """Whether every image passes, every image or its replacement decides, and one of these has a detection.

        AP must be equal, too, if there are annotations, and full masks and maps, if the file returns them.
        """
        if self.failure is not None:
            return False
        if self.quantised is not None:
            return self.accuracy is not None and self.accuracy.passed
        proves = any(one.found for one in self.last) or (self.maps is not None and not self.differences)
        decides = all(one.decides for one in self.last) and proves
        equal = all(one is None or one.passed for one in (self.accuracy, self.full, self.maps))
        return decides and equal and all(one.passes(self.tolerances) for one in self.differences)

    def line(self) -> str:
        """Return the result as a line of text."""
        rows = self.differences
        if self.failure is not None:
            return f"FAILED: {self.failure}"
        if self.quantised is not None and self.accuracy is not None:
            kept = plural(len(self.quantised.float_layers), "layer")
            return f"{'passed' if self.passed else 'FAILED'}: {self.accuracy.line()}; {kept} in float32"
        if self.maps is not None and not rows:
            return f"{'passed' if self.passed else 'FAILED'}: {self.maps.line()}"
        boxes, scores = max((one.boxes for one in rows), default=0), max((one.scores for one in rows), default=0)
        found, sensitive, unmatched = (
            sum(getattr(one, name) for one in rows) for name in ("found", "sensitive", "unmatched")
        )
        text = (
            f"{'passed' if self.passed else 'FAILED'}: {plural(found, 'detection')} in {plural(len(rows), 'image')}, "
            f"boxes within {boxes:.1e} pixels, scores within {scores:.1e}, unmatched: {unmatched}, "
            f"sensitive to rounding: {sensitive}"
        )
        points = [one.keypoints for one in rows if one.keypoints is not None]
        text += f", keypoints within {max(points):.1e} pixels" if points else ""
        undecided = sum(not one.decides for one in self.last)
        text += f"; {self.maps.line()}" if self.maps else ""
        text += f"; {self.full.line()}" if self.full else ""
        text += f"; {self.accuracy.line()}" if self.accuracy else ""
        return text + (f", images without a decision: {undecided}" if undecided else "")

    def summary(self) -> dict[str, Any]:
        """Return plain values, for the metadata of the file."""
        rows = [asdict(one) for one in self.differences]
        return {
            "passed": self.passed,
            "engine": self.engine,
            "tolerances": asdict(self.tolerances),
            "images": rows,
            "accuracy": self.accuracy and asdict(self.accuracy),
            "int8": self.quantised and asdict(self.quantised),
            "full": self.full and asdict(self.full),
            "failure": self.failure,
            "maps": self.maps and self.maps.summary(),
        }


def run_gate(
    model: Detector,
    exported: Detector,
    images: Sequence[tuple[str, np.ndarray]],
    engine: str,
    tolerances: Tolerances | None = None,
) -> Gate:
    """Run both on the images, and compare.

    The detector runs in the form of :func:`~.sensitivity.precise`. Images of one shape share a batch. If an image does
    not pass, :mod:`.sensitivity` computes how far the detector's own detections move if rounding changes. A detection
    that moves by more than the tolerances may differ as far in the export; the others may not. An image with mostly
    vague detections is compared again, with noise. An example is an image of one color in a detector with group norm,
    which divides rounding errors by a standard deviation near 0.

    Args:
        model: the detector.
        exported: its export, loaded as a detector.
        images: name and pixels (H, W, C) of each.
        engine: what runs the export.
        tolerances: the defaults for float32 if None.
    """
    tolerances = tolerances or Tolerances()
    try:
        found = () if isinstance(model, SemanticFPN) else _all_compared(precise(model), exported, images, tolerances)
    except RunError as error:
        return Gate(tolerances, (), engine, failure=str(error))
    return Gate(tolerances, found, engine)


def _all_compared(
    model: Detector, exported: Detector, images: Sequence[tuple[str, np.ndarray]], tolerances: Tolerances
) -> tuple[Difference, ...]:
    """Compare the detections of each image, and those of noisier ones after one that does not decide."""
    sensitivity, found, pixels = Sensitivity(model), [], [image for _, image in images]
    for (name, image), one, other in zip(images, objects(model, pixels), objects(exported, pixels), strict=True):
        found.append(_compared(model, sensitivity, (name, image, 0), one, other, tolerances))
        for noise in NOISES:
            if found[-1].decides:
                break
            noisy = with_noise(image, noise)
            one, other = (objects(each, [noisy])[0] for each in (model, exported))
            found.append(_compared(model, sensitivity, (name, noisy, noise), one, other, tolerances))
    return tuple(found)


def objects(model: Detector, images: Sequence[np.ndarray]) -> list[Detections]:
    """Return the objects of each image, without maps, as from :func:`~detection.inference.detect.detect`."""
    return [found._replace(semantic=None) for found in detect(model, images)]


def _compared(
    model: Detector,
    sensitivity: Sensitivity,
    image: tuple[str, np.ndarray, int],
    ours: Detections,
    theirs: Detections,
    tolerances: Tolerances,
) -> Difference:
    """Compare the detections of an image (name, pixels, noise); look for sensitive ones only if it does not pass."""
    name, pixels, noise = image
    found = compare(model, (name, noise), pixels.shape[:2], ours, theirs, tolerances)
    if found.passes(tolerances):
        return found
    movement = sensitivity.movement(pixels, ours)
    return compare(model, (name, noise), pixels.shape[:2], ours, theirs, tolerances, movement)


def compare(
    model: Detector,
    image: tuple[str, int],
    size: Sequence[int],
    ours: Detections,
    theirs: Detections,
    tolerances: Tolerances,
    movement: Movement | None = None,
) -> Difference:
    """Compare the detections of an image.

    Args:
        model: its config has the score threshold and the largest number of detections.
        image: name, and levels of noise.
        size: height, width of the image.
        ours, theirs: from :func:`~detection.inference.detect.detect`.
        tolerances: largest differences; a detection is missing at the cut if its score is as near as this.
        movement: how far our detections move if rounding changes; None: not at all.
    """
    pairs = pair(ours, theirs)
    limits = torch.tensor([tolerances.boxes, tolerances.scores, tolerances.masks, tolerances.keypoints])
    allowed = limits.double()[:, None].expand(4, len(ours.scores))
    if movement is not None:
        moved = torch.stack([movement.boxes, movement.scores, movement.masks, movement.keypoints])
        allowed = allowed.maximum(ROOM * moved)
    sensitive = (allowed > limits[:, None]).any(dim=0)  # (n,)
    off = (torch.stack(pairs[2:]) > allowed[:, pairs.ours]).any(dim=0)  # (p,)
    missing, extra = without(len(ours.scores), pairs.ours), without(len(theirs.scores), pairs.theirs)
    lost, gained = missing & ~sensitive, extra.clone()
    if movement is not None:
        gained &= ~movement.known(theirs)
        spare = min(movement.extra, int(gained.sum()))
        gained[gained.nonzero()[:spare, 0]] = False
    least = _cut(model, ours, theirs) + tolerances.scores
    alone = torch.cat([ours.scores[lost], theirs.scores[gained]])
    at_cut = int((alone <= least).sum())
    steady = ~sensitive[pairs.ours]
    one, two = take(ours, pairs.ours[steady]), take(theirs, pairs.theirs[steady])
    boxes, scores, masks, keypoints = (float(x[steady].amax()) if steady.any() else 0.0 for x in pairs[2:])
    has_masks = ours.masks is not None and theirs.masks is not None
    return Difference(
        image[0],
        len(ours.scores),
        boxes,
        scores,
        masks if has_masks else None,
        _least_iou(model, one, two, size) if has_masks else None,
        len(alone) - at_cut + int((off & ~steady).sum()),
        at_cut,
        int(sensitive.sum()),
        int((allowed > VAGUE * limits[:, None]).any(dim=0).sum()),
        image[1],
        keypoints if ours.keypoints is not None else None,
    )


def _cut(model: Detector, ours: Detections, theirs: Detections) -> float:
    """Return the score below which detections may be missing: the threshold, or the last one of two full lists."""
    config = model.last_head.config
    full = min(len(ours.scores), len(theirs.scores)) >= config.detections
    last = [float(min(ours.scores.min(), theirs.scores.min()))] if full and config.detections else []
    return max([config.score_threshold, *last])


def _least_iou(model: Detector, one: Detections, two: Detections, size: Sequence[int]) -> float:
    """Return the smallest IoU of the masks of pairs, pasted into the image; 1 for two empty masks."""
    rles = zip(*(encoded(model, found, size[0], size[1]) or [] for found in (one, two)), strict=True)
    ious = [
        1.0 if not coco_mask.area(a) and not coco_mask.area(b) else float(coco_mask.iou([a], [b], [0])[0, 0])
        for a, b in rles
    ]
    return min(ious, default=1.0)
