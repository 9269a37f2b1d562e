"""Arithmetic on boxes.

B images, N, M boxes.  Boxes: XYXY float32 in pixels, continuous: a box from 0 to 1 is one pixel wide.  The functions
take any leading axes unless they say otherwise, and a zero box (padding) gives finite numbers everywhere.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Width times height, (..., 4) to (...); zero for a box that is turned inside out."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that each pair shares.

    Args:
        a: (..., N, 4).
        b: (..., M, 4).

    Returns:
        (..., N, M).
    """
    # One contiguous row per coordinate: a stride of four keeps the CPU from using its vector units.
    ax1, ay1, ax2, ay2 = a.movedim(-1, 0).contiguous()[..., None]  # (..., N, 1)
    bx1, by1, bx2, by2 = b.movedim(-1, 0).contiguous()[..., None, :]  # (..., 1, M)
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair, (..., N, 4) and (..., M, 4) to (..., N, M); zero without a union."""
    shared = intersection(a, b)
    # One positive area makes a positive union: rounding never lifts the intersection above the smaller area.
    union = (positive(area(a))[..., None] + area(b)[..., None, :]).sub_(shared)
    return shared.div_(union)


def intersection_over_area(a: Tensor, b: Tensor) -> Tensor:
    """Which part of each ``a`` lies in each ``b``, (..., N, 4) and (..., M, 4) to (..., N, M).

    This is what COCO takes in place of the IoU where ``b`` is a crowd; zero where ``a`` has no area.
    """
    return intersection(a, b).div_(positive(area(a))[..., None])


def positive(x: Tensor) -> Tensor:
    """At least the smallest normal number, so that 0 / 0 becomes 0 / tiny = 0 and every other quotient stays exact."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Cut the boxes to their images.

    Args:
        boxes: (B, N, 4).
        sizes: (B, 2) height, width.
    """
    limit = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)  # (B, 1, 4) width, height, width, height
    return boxes.clamp(min=0).minimum(limit)


def rescale(boxes: Tensor, from_sizes: Tensor, to_sizes: Tensor) -> Tensor:
    """Carry the boxes from one size of their image to another.

    Args:
        boxes: (B, N, 4).
        from_sizes, to_sizes: (B, 2) height, width.
    """
    scale = to_sizes.to(boxes.dtype) / from_sizes.to(boxes.dtype).clamp(min=1)  # a filler image may have no size
    return boxes * scale.flip(-1).repeat(1, 2)[:, None]


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """The deltas that move the anchors onto the boxes (Faster R-CNN, equation 2), in float32.

    Args:
        boxes, anchors: (..., 4). Where one of them is padding the deltas are finite and mean nothing.
        weights: of x, y, width, height, to bring the deltas to a like spread.
    """
    x, y, width, height = _centres(boxes.float())
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(anchors.float())
    least = torch.finfo(torch.float32).eps  # pixels; far below any real box, and its logarithm is harmless
    width, height = width.clamp(min=least), height.clamp(min=least)
    anchor_width, anchor_height = anchor_width.clamp(min=least), anchor_height.clamp(min=least)
    return torch.stack(
        [
            weights[0] * (x - anchor_x) / anchor_width,
            weights[1] * (y - anchor_y) / anchor_height,
            weights[2] * torch.log(width / anchor_width),
            weights[3] * torch.log(height / anchor_height),
        ],
        dim=-1,
    )


def decode(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1, 1, 1, 1),
    clamp: float = math.log(1000 / 16),
    clamp_both: bool = False,
) -> Tensor:
    """The boxes to which the deltas move the anchors; inverts :func:`encode`.

    Always float32, whatever the deltas are: a bfloat16 of 1000 pixels is off by up to four.

    Args:
        deltas, anchors: (..., 4), broadcast against each other.
        clamp: largest log ratio of the sizes; log(1000 / 16): an anchor of 16 pixels may grow to 1000.
        clamp_both: the ratio may not fall below ``-clamp`` either (mmdetection).
    """
    x, y, width, height = _centres(anchors.float())
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.float().unbind(-1), weights, strict=True))
    x, y = dx * width + x, dy * height + y
    floor = -clamp if clamp_both else -math.inf
    half_width = dw.clamp(min=floor, max=clamp).exp() * width * 0.5
    half_height = dh.clamp(min=floor, max=clamp).exp() * height * 0.5
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, centre y, width, height."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height
