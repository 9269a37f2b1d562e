"""Images much larger than a detector was trained on, tile by tile.

A tile cuts objects. A part of one is told from the whole by where it ends: at an inner border of its tile. Tiles
overlap, so that an object up to the overlap is whole in one of them; larger ones come from a look at the whole image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detection.models.rcnn import FasterRCNN
from detection.ops import boxes as box_ops
from detection.predicting.find import Found, concatenate, find

BORDER = 3.0
"""Boxes that end so near an inner border, in pixels, may be parts."""
INSIDE = 0.6
"""Of two detections of one class the later is dropped if it covers so much of the smaller one."""


def find_in_tiles(
    model: FasterRCNN,
    image: np.ndarray,
    side: int,
    overlap: float = 0.2,
    batch: int = 4,
    size: tuple[int, int] | None = None,
) -> Found:
    """Detections of an image from overlapping tiles and from the whole.

    Args:
        image: (H, W, 3) uint8 RGB.
        side: of a tile, in pixels of the image.
        overlap: of neighbouring tiles, as a part of the side.
        batch: tiles at a time; bounds the memory.
        size: shortest and longest side that tiles, and the whole, are resized to; the model's ``test_size`` if None.

    Raises:
        ValueError: a side that is no whole number from 32 on, or an overlap outside [0, 0.9].
    """
    if not isinstance(side, int | np.integer) or side < 32 or not 0 <= overlap <= 0.9:
        raise ValueError(f"tiles of {side!r} pixels with an overlap of {overlap}; take 32 or more, and 0 to 0.9")
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return find(model, [image], size)[0]
    places = [(top, left) for top in starts(height, side, overlap) for left in starts(width, side, overlap)]
    parts = find(model, [image], size)
    cut = [torch.zeros(len(parts[0].scores), dtype=torch.bool)]
    for k in range(0, len(places), batch):
        some = places[k : k + batch]
        tiles = [image[top : top + side, left : left + side] for top, left in some]
        for (top, left), tile, found in zip(some, tiles, find(model, tiles, size), strict=True):
            cut.append(at_inner_border(found.boxes, (top, left), tile.shape[:2], (height, width)))
            offset = torch.tensor([left, top, left, top], dtype=torch.float64)
            parts.append(found._replace(boxes=found.boxes + offset))
    return merge_tiles(concatenate(parts), torch.cat(cut))


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin, so that they cover the length and overlap evenly by at least that much."""
    if length <= side:
        return [0]
    number = -(-(length - side) // max(1, int(side * (1 - overlap)))) + 1
    return [round(k * (length - side) / (number - 1)) for k in range(number)]


def at_inner_border(boxes: Tensor, corner: tuple[int, int], tile: Sequence[int], image: tuple[int, int]) -> Tensor:
    """(n,) bool: boxes of a tile that end at a border behind which the image goes on."""
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


def merge_tiles(found: Found, cut: Tensor) -> Found:
    """Whole objects first, then parts, each by falling score; what lies in an earlier one of its class is dropped."""
    order = torch.argsort(found.scores, descending=True, stable=True)
    order = order[torch.argsort(cut[order].int(), stable=True)]
    found = found.take(order)
    area = box_ops.area(found.boxes)
    keep = torch.ones(len(order), dtype=torch.bool)
    for k in range(len(order)):
        if not keep[k]:
            continue
        low = torch.maximum(found.boxes[k, :2], found.boxes[k + 1 :, :2])
        high = torch.minimum(found.boxes[k, 2:], found.boxes[k + 1 :, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        inside = shared > INSIDE * torch.minimum(area[k], area[k + 1 :]).clamp(min=1e-9)
        keep[k + 1 :] &= ~(inside & (found.labels[k + 1 :] == found.labels[k]))
    found = found.take(keep)
    return found.take(torch.argsort(found.scores, descending=True, stable=True))
