"""Detect objects tile by tile, in images that are much larger than the training images.

A tile can cut an object. If a detection ends at an inner border of its tile, it may be only a part of an object. Tiles
overlap, so that an object no larger than the overlap is complete in one of them. The detector also runs on the whole
image, to find larger objects. Each pixel of a semantic map comes from the tile whose inner border is the farthest.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detection.inference.detect import concatenate, detect, take
from detection.models.detector import Detector
from detection.models.panoptic import SemanticFPN, WithSemanticHead
from detection.ops import boxes as box_ops
from detection.structures import Detections

BORDER = 3.0
"""A box that ends within this distance of an inner border, in pixels, may be a part of an object."""
INSIDE = 0.6
"""A part is dropped if more than this fraction of its area is inside a detection of its class in another view."""


def detect_in_tiles(
    model: Detector,
    image: np.ndarray,
    side: int,
    overlap: float = 0.2,
    batch: int = 4,
    size: tuple[int, int] | None = None,
) -> Detections:
    """Detect the objects of an image in overlapping tiles and in the whole image.

    Two detections are duplicates if their IoU is above the model's own NMS threshold. If the model suppresses across
    classes, duplicates may have different classes.

    Args:
        model: the detector.
        image: (H, W, C) uint8 or uint16; RGB if C is 3.
        side: side of a tile, in pixels of the image, at least 32.
        overlap: overlap of neighbouring tiles, as a fraction of the side.
        batch: number of tiles to process at a time; it limits the memory.
        size: (shortest, longest) side to which tiles and the whole image are resized; None uses the model's
            ``test_size``.

    Returns:
        The detections of the image, as from :func:`~detection.inference.detect.detect`.

    Raises:
        ValueError: the side is not an integer of at least 32, or the overlap is not in [0, 0.9].
    """
    if not isinstance(side, int | np.integer) or side < 32 or not 0 <= overlap <= 0.9:
        raise ValueError(
            f"tiles of {side!r} pixels with an overlap of {overlap}: give a side of at least 32 pixels, and an overlap "
            "from 0 to 0.9"
        )
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return detect(model, [image], size)[0]
    tops, lefts = starts(height, side, overlap), starts(width, side, overlap)
    places = [(top, left) for top in tops for left in lefts]
    # The whole image shows larger objects; its semantic map is coarser than those of the tiles.
    parts = [] if isinstance(model, SemanticFPN) else [detect(model, [image], size)[0]._replace(semantic=None)]
    cut = [torch.zeros(len(part.scores), dtype=torch.bool) for part in parts]
    semantic = torch.zeros((height, width), dtype=torch.uint8) if isinstance(model, WithSemanticHead) else None
    for k in range(0, len(places), batch):
        some = places[k : k + batch]
        tiles = [image[top : top + side, left : left + side] for top, left in some]
        for (top, left), tile, found in zip(some, tiles, detect(model, tiles, size), strict=True):
            if semantic is not None:
                assert found.semantic is not None
                (first, stop), (start, end) = own_part(tops, top, side, height), own_part(lefts, left, side, width)
                semantic[first:stop, start:end] = found.semantic[first - top : stop - top, start - left : end - left]
            cut.append(at_inner_border(found.boxes, (top, left), tile.shape[:2], (height, width)))
            offset = torch.tensor([left, top, left, top], dtype=torch.float64)
            points = None if found.keypoints is None else found.keypoints + torch.tensor([left, top, 0.0])
            parts.append(found._replace(boxes=found.boxes + offset, keypoints=points, semantic=None))
    if isinstance(model, SemanticFPN):
        return parts[0]._replace(semantic=semantic)
    views = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part.scores) for part in parts]))
    config = model.last_head.config
    found = merge_tiles(concatenate(parts), torch.cat(cut), views, config.nms_threshold, config.nms_across_classes)
    return found._replace(semantic=semantic)


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Return the start of each tile, so that tiles cover the length with equal overlaps of at least ``overlap``."""
    if length <= side:
        return [0]
    number = -(-(length - side) // max(1, int(side * (1 - overlap)))) + 1
    return [round(k * (length - side) / (number - 1)) for k in range(number)]


def own_part(starts: Sequence[int], start: int, side: int, length: int) -> tuple[int, int]:
    """Return the first pixel and the end of the part that belongs to a tile: to the middle of each overlap."""
    k = starts.index(start)
    first = 0 if k == 0 else (start + starts[k - 1] + side) // 2
    return first, length if k + 1 == len(starts) else (starts[k + 1] + start + side) // 2


def at_inner_border(boxes: Tensor, corner: tuple[int, int], tile: Sequence[int], image: tuple[int, int]) -> Tensor:
    """Return which boxes of a tile end at an inner border, (n,) bool: a border that is not one of the image."""
    (top, left), (height, width) = corner, tile
    ends = torch.zeros(len(boxes), dtype=torch.bool)
    if left > 0:
        ends |= boxes[:, 0] <= BORDER
    if top > 0:
        ends |= boxes[:, 1] <= BORDER
    if left + width < image[1]:
        ends |= boxes[:, 2] >= width - BORDER
    if top + height < image[0]:
        ends |= boxes[:, 3] >= height - BORDER
    return ends


def merge_tiles(
    found: Detections, cut: Tensor, views: Tensor | None = None, threshold: float = 0.5, across_classes: bool = False
) -> Detections:
    """Merge the detections of several views of one image. A view is a tile or the whole image.

    The function visits whole objects first, by falling score, and then parts, the largest first. Each detection that it
    keeps removes later detections of the same class from other views. (The model's own NMS has compared those of the
    same view.) It removes:

    - duplicates: their IoU with the kept detection is above the threshold;
    - parts: more than INSIDE of their area is inside the kept detection.

    So a whole object inside a larger object stays. Two objects of one view that overlap above the threshold stay, too:
    only the one that is more similar to a detection of another view counts as its duplicate.

    A whole object may have a lower score than a part that it removes. It then keeps its own, better box, and takes the
    highest score of the removed detections. With ``across_classes``, it also takes the label of that detection.

    Args:
        found: n detections of all views.
        cut: (n,) bool: parts, which end at an inner border of their tile.
        views: (n,) int64: the view of each detection; None means that each detection has its own view.
        threshold: IoU above which two detections are duplicates.
        across_classes: duplicates may have different classes.

    Returns:
        The remaining detections, by falling score.
    """
    order = _wholes_then_parts(found, cut)
    found, cut = take(found, order), cut[order]
    views = order if views is None else views[order]
    keep = torch.ones(len(order), dtype=torch.bool)
    scores, labels = found.scores.clone(), found.labels.clone()
    for k in range(len(order)):
        if not keep[k]:
            continue
        overlap = box_ops.iou(found.boxes[k, None], found.boxes)[0]
        inside = box_ops.intersection_over_area(found.boxes, found.boxes[k, None])[:, 0] > INSIDE
        own_class = found.labels == found.labels[k]
        other = views != views[k]
        alike = other & (overlap > threshold) & (own_class | across_classes)
        dropped = _most_similar(alike, overlap, found.boxes, views, threshold) | (other & own_class & cut & inside)
        later = (dropped[k + 1 :] & keep[k + 1 :]).nonzero().squeeze(1) + k + 1
        if len(later):
            keep[later] = False
            surest = later[found.scores[later].argmax()]
            if found.scores[surest] > scores[k]:
                scores[k], labels[k] = found.scores[surest], found.labels[surest]
    found = take(found._replace(scores=scores, labels=labels), keep)
    return take(found, torch.argsort(found.scores, descending=True, stable=True))


def _wholes_then_parts(found: Detections, cut: Tensor) -> Tensor:
    """Return the order, (n,) int64, in which :func:`merge_tiles` visits the detections."""
    order = torch.argsort(found.scores, descending=True, stable=True)
    size = torch.where(cut, box_ops.area(found.boxes), torch.inf)
    return order[torch.argsort(size[order], descending=True, stable=True)]


def _most_similar(alike: Tensor, overlap: Tensor, boxes: Tensor, views: Tensor, threshold: float) -> Tensor:
    """Keep only the most similar duplicate if several duplicates of one view overlap each other.

    Args:
        alike: (n,) bool, duplicates of the current detection.
        overlap: (n,) IoU with the current detection.
        boxes: (n, 4) XYXY.
        views: (n,) int64.
        threshold: IoU above which two boxes overlap.
    """
    index = alike.nonzero().squeeze(1)
    if len(index) > 1:
        better = overlap[index] > overlap[index, None]
        together = (views[index] == views[index, None]) & (box_ops.iou(boxes[index], boxes[index]) > threshold)
        alike = alike.clone()
        alike[index] = ~(better & together).any(dim=1)
    return alike
