"""Points that predict the box around them: which object each belongs to, and how central it is.

B images   N points   G ground truths (padded).
Labels: 1 positive, 0 negative, IGNORE (-1) neither.  Boxes: XYXY in canvas pixels, zero on padding.
Tian et al. 2019 (FCOS), section 3; centre sampling: Tian et al. 2020, section 3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from detection.ops.boxes import area
from detection.structures import IGNORE


class Points(NamedTuple):
    """The points of a canvas."""

    centres: Tensor
    """(N, 2) x, y in canvas pixels."""
    strides: Tensor
    """(N,) of their levels."""
    low: Tensor
    """(N,) the farthest side of a box must be farther than this."""
    high: Tensor
    """(N,) and no farther than this."""


def assign(boxes: Tensor, crowd: Tensor, points: Points, radius: float, chunk: int = 2**20) -> tuple[Tensor, Tensor]:
    """Give every point its object and a label.

    A point is positive for an object that it lies in, near the centre, whose farthest side is in the point's range. Of
    several, the smallest object counts. Points in a crowd that are not positive become IGNORE.

    Args:
        boxes: (B, G, 4) ground truth, G >= 1.
        crowd: (B, G) bool.
        radius: the farthest that a point may be from the centre along either axis, in strides.
        chunk: pairs that are compared at a time, but at least one object of each image; it bounds the memory.

    Returns:
        index: (B, N) int64 into G, the first of equally small ones.
        label: (B, N) int64.
    """
    batch, number = boxes.shape[:2]
    smallest = boxes.new_full((batch, len(points.centres)), torch.inf)
    index = torch.zeros_like(smallest, dtype=torch.int64)
    in_crowd = torch.zeros_like(index, dtype=torch.bool)
    step = max(1, chunk // max(1, smallest.numel()))
    for first in range(0, number, step):
        part, is_crowd = boxes[:, first : first + step], crowd[:, first : first + step, None]
        distance = sides(points.centres, part[:, :, None])  # (B, g, N, 4)
        inside = distance.amin(dim=-1) > 0
        middle = (part[..., :2] + part[..., 2:]) / 2
        near = (points.centres - middle[:, :, None]).abs().amax(dim=-1) < radius * points.strides
        farthest = distance.amax(dim=-1)
        fits = inside & near & (farthest > points.low) & (farthest <= points.high) & ~is_crowd
        size, place = torch.where(fits, area(part)[..., None], torch.inf).min(dim=1)
        # Strictly smaller: of equal ones the first stays, as if there were no chunks.
        index = torch.where(size < smallest, place + first, index)
        smallest = torch.minimum(smallest, size)
        in_crowd |= (inside & is_crowd).any(dim=1)
    positive = smallest < torch.inf
    return index, torch.where(positive, 1, torch.where(in_crowd, IGNORE, 0))


def sides(centres: Tensor, boxes: Tensor) -> Tensor:
    """Return the distances to the left, top, right and bottom of boxes; negative outside.

    Args:
        centres: (N, 2).
        boxes: (..., N or 1, 4).

    Returns:
        (..., N, 4).
    """
    return torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], dim=-1)


def boxes_around(centres: Tensor, distances: Tensor) -> Tensor:
    """Return the boxes (..., N, 4) whose sides are this far from points (..., N, 2); inverts :func:`sides`."""
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1)


def centreness(distances: Tensor) -> Tensor:
    """Return how central points are in their boxes (FCOS, equation 3): 1 in the middle, 0 on a side.

    Args:
        distances: (..., 4) from :func:`sides`. Points outside a box give 0.

    Example:
        >>> centreness(torch.tensor([1.0, 2, 4, 2]))
        tensor(0.5000)
    """
    left, top, right, bottom = distances.clamp(min=0).unbind(-1)
    tiny = torch.finfo(distances.dtype).tiny
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=tiny)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=tiny)
    return (across * down).sqrt()
