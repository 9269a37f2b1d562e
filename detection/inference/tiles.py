"""Images much larger than a detector was trained on, tile by tile.

A tile cuts objects. A detection that ends at an inner border of its tile may be a part of an object. Tiles overlap: an
object that is no larger than the overlap is whole in one of them. A look at the whole image finds larger objects.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detection.inference.detect import concatenate, detect, take
from detection.models.rcnn import FasterRCNN
from detection.ops import boxes as box_ops
from detection.structures import Detections

BORDER = 3.0
"""Boxes that end this near to an inner border, in pixels, may be parts."""
INSIDE = 0.6
"""A part is dropped if more than this share of its area lies in a detection of its class from another view."""


def detect_in_tiles(
    model: FasterRCNN,
    image: np.ndarray,
    side: int,
    overlap: float = 0.2,
    batch: int = 4,
    size: tuple[int, int] | None = None,
) -> Detections:
    """Detect the objects of an image in overlapping tiles and in the whole.

    The model's own NMS threshold tells duplicates, across classes if the model suppresses across classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        side: of a tile, in pixels of the image.
        overlap: of neighbouring tiles, as a part of the side.
        batch: tiles at a time; bounds the memory.
        size: shortest and longest side that tiles, and the whole, are resized to; the model's ``test_size`` if None.

    Returns:
        As :func:`~detection.inference.detect.detect` for one image.

    Raises:
        ValueError: a side that is not a whole number from 32 on, or an overlap outside [0, 0.9].
    """
    if not isinstance(side, int | np.integer) or side < 32 or not 0 <= overlap <= 0.9:
        raise ValueError(f"tiles of {side!r} pixels with an overlap of {overlap}; take 32 or more, and 0 to 0.9")
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return detect(model, [image], size)[0]
    places = [(top, left) for top in starts(height, side, overlap) for left in starts(width, side, overlap)]
    parts = detect(model, [image], size)
    cut = [torch.zeros(len(parts[0].scores), dtype=torch.bool)]
    for k in range(0, len(places), batch):
        some = places[k : k + batch]
        tiles = [image[top : top + side, left : left + side] for top, left in some]
        for (top, left), tile, found in zip(some, tiles, detect(model, tiles, size), strict=True):
            cut.append(at_inner_border(found.boxes, (top, left), tile.shape[:2], (height, width)))
            offset = torch.tensor([left, top, left, top], dtype=torch.float64)
            parts.append(found._replace(boxes=found.boxes + offset))
    views = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part.scores) for part in parts]))
    config = model.box_head.config
    return merge_tiles(concatenate(parts), torch.cat(cut), views, config.nms_threshold, config.nms_across_classes)


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where tiles begin, so that they cover the length and overlap evenly by at least that much."""
    if length <= side:
        return [0]
    number = -(-(length - side) // max(1, int(side * (1 - overlap)))) + 1
    return [round(k * (length - side) / (number - 1)) for k in range(number)]


def at_inner_border(boxes: Tensor, corner: tuple[int, int], tile: Sequence[int], image: tuple[int, int]) -> Tensor:
    """Tell which boxes of a tile, (n,) bool, end at a border behind which the image goes on."""
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
    """Merge the detections of several views of one image, where a view is a tile or the whole image.

    Whole objects come first, by falling score, then parts, the largest first. A detection that stays drops later ones
    of its class, and of other views only, as the model's own suppression has compared those of one view:

    - a duplicate, whose IoU is above the threshold;
    - a part that lies in it by more than INSIDE of the part's area.

    So a whole object in a larger one stays. Two objects of one view that overlap above the threshold stay, too: of the
    two only the one that is more like a detection elsewhere is its duplicate.

    A whole object may be less sure than a part that it drops. It keeps its box, which is the better one, and takes the
    score of the surest detection that it drops; across classes the label, too.

    Args:
        cut: (n,) bool: parts, which end at an inner border of their tile.
        views: (n,) int64: the view of each detection; each has its own if None.
        threshold: IoU.
        across_classes: duplicates may have different classes.

    Returns:
        The detections that stay, by falling score.
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
        dropped = _most_alike(alike, overlap, found.boxes, views, threshold) | (other & own_class & cut & inside)
        later = (dropped[k + 1 :] & keep[k + 1 :]).nonzero().squeeze(1) + k + 1
        if len(later):
            keep[later] = False
            surest = later[found.scores[later].argmax()]
            if found.scores[surest] > scores[k]:
                scores[k], labels[k] = found.scores[surest], found.labels[surest]
    found = take(found._replace(scores=scores, labels=labels), keep)
    return take(found, torch.argsort(found.scores, descending=True, stable=True))


def _wholes_then_parts(found: Detections, cut: Tensor) -> Tensor:
    """Return the order, (n,) int64, in which :func:`merge_tiles` goes through the detections."""
    order = torch.argsort(found.scores, descending=True, stable=True)
    size = torch.where(cut, box_ops.area(found.boxes), torch.inf)
    return order[torch.argsort(size[order], descending=True, stable=True)]


def _most_alike(alike: Tensor, overlap: Tensor, boxes: Tensor, views: Tensor, threshold: float) -> Tensor:
    """Keep one duplicate per view: where two of one view overlap, the more similar one.

    Args:
        alike: (n,) bool.
        overlap: (n,) IoU with the detection that they are like.
    """
    index = alike.nonzero().squeeze(1)
    if len(index) > 1:
        better = overlap[index] > overlap[index, None]
        together = (views[index] == views[index, None]) & (box_ops.iou(boxes[index], boxes[index]) > threshold)
        alike = alike.clone()
        alike[index] = ~(better & together).any(dim=1)
    return alike
