"""Points on feature maps and in masks: bilinear samples, and the points whose mask is uncertain.

N maps   C channels   H x W cells of a map   R regions   P points of a region.
Points are x, y. In a region they are fractions of its sides: (0, 0) is the upper left corner, (1, 1) the lower right.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_maps(maps: Tensor, points: Tensor, owner: Tensor) -> Tensor:
    """Return bilinear samples of maps at points; beyond its border, a map is zero.

    Gradients flow into the maps, not into the points. :func:`torch.nn.functional.grid_sample` with ``align_corners``
    false gives the same numbers. This function also keeps the dtype of the maps, and its gradient is the same in each
    run on a GPU.

    Args:
        maps: (N, C, H, W).
        points: (R, P, 2) x, y in cells: cell (0, 0) covers [0, 1) x [0, 1), and its value belongs to its centre.
            NaN and Inf give zero.
        owner: (R,) int64, the map of each region.

    Returns:
        (R, P, C) in the dtype of the maps.
    """
    (height, width), rows = maps.shape[2:], maps.permute(0, 2, 3, 1).flatten(0, 2)
    # float32 also for bfloat16 maps: eight bits are too few for a position.
    points = points.detach().to(torch.promote_types(torch.float32, maps.dtype)) - 0.5
    low = points.floor()
    corner = torch.arange(4, device=maps.device)  # not a list of numbers: their copy to a GPU would wait for it
    beside = torch.stack([corner % 2, corner // 2], dim=1)  # (4, 2) x, y
    fraction = (points - low)[:, :, None]  # (R, P, 1, 2)
    weight = torch.where(beside == 1, fraction, 1 - fraction).prod(dim=3)  # (R, P, 4)
    x, y = (low[:, :, None] + beside).unbind(3)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # false for NaN
    x, y = (side.where(inside, 0).long() for side in (x, y))
    index = (owner[:, None, None] * height + y) * width + x
    weight = weight.where(inside, 0).to(maps.dtype)
    found = F.embedding_bag(index.flatten(0, 1), rows, mode="sum", per_sample_weights=weight.flatten(0, 1))
    return found.unflatten(0, points.shape[:2])


def cell_centres(side: int, device: torch.device | None = None) -> Tensor:
    """Return the centres of a square grid of cells, (side * side, 2) in fractions of its sides, row by row."""
    centres = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=2).flatten(0, 1)


def on_canvas(points: Tensor, boxes: Tensor) -> Tensor:
    """Return points in boxes, (R, P, 2) in fractions of the sides, as pixels of the canvas; boxes are (R, 4)."""
    boxes = boxes.float()[:, None]
    return boxes[..., :2] + points * (boxes[..., 2:] - boxes[..., :2])


@torch.no_grad()
def uncertain_points(logits: Tensor, drawn: Tensor, number: int) -> Tensor:
    """Return the points at which a mask is the least certain: its logit is closest to 0 (PointRend, section 3.1).

    Args:
        logits: (R, h, w) float32 mask logits.
        drawn: (R, P, 2) points to choose from, in fractions of the mask's sides.
        number: how many of them to return.

    Returns:
        (R, number, 2).
    """
    points = torch.stack([drawn[..., 0] * logits.shape[2], drawn[..., 1] * logits.shape[1]], dim=2)
    found = sample_maps(logits[:, None], points, torch.arange(len(logits), device=logits.device))
    index = found.squeeze(2).abs().topk(number, dim=1, largest=False).indices
    return drawn.gather(1, index[..., None].expand(-1, -1, 2))
