"""Arithmetic on boxes.

B images, N, M boxes.  Boxes: XYXY float32 in pixels, continuous: a box from 0 to 1 is one pixel wide.  The functions
accept any leading axes unless they say otherwise. A zero box (padding) gives finite numbers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Return width times height, (..., 4) to (...); zero for a box with x2 < x1 or y2 < y1."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Return the area of the intersection of each pair.

    Args:
        a: (..., N, 4).
        b: (..., M, 4).

    Returns:
        (..., N, M).
    """
    # One contiguous row per coordinate: with a stride of four, the CPU could not use its vector units.
    ax1, ay1, ax2, ay2 = a.movedim(-1, 0).contiguous()[..., None]  # (..., N, 1)
    bx1, by1, bx2, by2 = b.movedim(-1, 0).contiguous()[..., None, :]  # (..., 1, M)
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of each pair, (..., N, 4) and (..., M, 4) to (..., N, M); zero if the union is empty."""
    overlap = intersection(a, b)
    # One positive area gives a positive union: rounding never makes the intersection larger than the smaller area.
    union = (positive(area(a))[..., None] + area(b)[..., None, :]).sub_(overlap)
    return overlap.div_(union)


def intersection_over_area(a: Tensor, b: Tensor) -> Tensor:
    """Return the fraction of each ``a`` that lies in each ``b``, (..., N, 4) and (..., M, 4) to (..., N, M).

    COCO uses it instead of the IoU if ``b`` is a crowd. It is zero if ``a`` has no area.
    """
    return intersection(a, b).div_(positive(area(a))[..., None])


def positive(x: Tensor) -> Tensor:
    """Return ``x``, at least the smallest normal number: 0 / 0 becomes 0 / tiny = 0, other quotients stay exact."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes to their images.

    Args:
        boxes: (B, N, 4).
        sizes: (B, 2) height, width.
    """
    limit = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)  # (B, 1, 4) width, height, width, height
    return boxes.clamp(min=0).minimum(limit)


def rescale(boxes: Tensor, from_sizes: Tensor, to_sizes: Tensor) -> Tensor:
    """Scale boxes from one size of their image to another.

    Args:
        boxes: (B, N, 4).
        from_sizes, to_sizes: (B, 2) height, width.
    """
    scale = to_sizes.to(boxes.dtype) / from_sizes.to(boxes.dtype).clamp(min=1)  # a padding image may have size 0
    return boxes * scale.flip(-1).repeat(1, 2)[:, None]


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Return the deltas that transform anchors to boxes (Faster R-CNN, equation 2), in float32.

    Args:
        boxes, anchors: (..., 4). If one of them is padding, the deltas are finite but meaningless.
        weights: factors of x, y, width and height, to give all deltas a similar variance.
    """
    x, y, width, height = _centres(boxes.float())
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(anchors.float())
    least = torch.finfo(torch.float32).eps  # in pixels: far smaller than any real box, with a finite logarithm
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
    """Apply deltas to anchors and return the boxes; the inverse of :func:`encode`.

    The result is always float32: a bfloat16 coordinate of 1000 pixels has an error of up to four pixels.

    Args:
        deltas, anchors: (..., 4), broadcast against each other.
        clamp: largest log ratio of the sizes. With log(1000 / 16), an anchor of 16 pixels grows to at most 1000.
        clamp_both: also limit the ratio to at least ``-clamp`` (mmdetection).
    """
    x, y, width, height = _centres(anchors.float())
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.float().unbind(-1), weights, strict=True))
    x, y = dx * width + x, dy * height + y
    least = -clamp if clamp_both else -math.inf
    half_width = dw.clamp(min=least, max=clamp).exp() * width * 0.5
    half_height = dh.clamp(min=least, max=clamp).exp() * height * 0.5
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return centre x, centre y, width and height."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height
