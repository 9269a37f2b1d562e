"""Keypoints and the heatmaps of RoIs: training targets, and the most likely places.

B images   S RoIs per image   R RoIs   N keypoints   m side of a heatmap, in cells.  Boxes: XYXY in pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.ops.operators import operator, shape_of
from detection.structures import IGNORE


def keypoint_cells(keypoints: Tensor, rois: Tensor, size: int) -> Tensor:
    """Return the cell of its RoI that each keypoint is in (Mask R-CNN, section 5).

    Args:
        keypoints: (B, S, N, 3) x, y, visibility.
        rois: (B, S, 4).
        size: m.

    Returns:
        (B, S, N) int64: row * m + column; IGNORE if the keypoint is not labelled or outside the RoI.
    """
    low, high = rois[:, :, None, :2].float(), rois[:, :, None, 2:].float()
    points = keypoints[..., :2].float()
    cell = ((points - low) * (size / (high - low).clamp(min=1e-6))).floor()
    cell = torch.where(points == high, size - 1, cell)  # the right and the lower border belong to the RoI
    inside = ((cell >= 0) & (cell < size)).all(dim=-1) & (keypoints[..., 2] > 0)
    column, row = cell.clamp(0, size - 1).nan_to_num(0).long().unbind(-1)
    return (row * size + column).masked_fill(~inside, IGNORE)


def rescale_keypoints(keypoints: Tensor, from_sizes: Tensor, to_sizes: Tensor) -> Tensor:
    """Scale keypoints from one size of their image to another.

    Args:
        keypoints: (B, N, P, 3).
        from_sizes, to_sizes: (B, 2) height, width.
    """
    scale = to_sizes.to(keypoints.dtype) / from_sizes.to(keypoints.dtype).clamp(min=1)
    return keypoints * F.pad(scale.flip(-1), (0, 1), value=1.0)[:, None, None]


@operator
def decode_keypoints(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Return the most likely place of each keypoint, on a grid of about one pixel.

    Each heatmap is resized to its box by bicubic interpolation. The keypoint is the centre of the highest cell. Its
    score is the probability of that place under a softmax over the cells of the heatmap, as in detectron2.

    Args:
        heatmaps: (R, N, m, m) float32 logits.
        boxes: (R, 4); a side below one pixel counts as one pixel.

    Returns:
        (R, N, 3) x, y, score.
    """
    found = heatmaps.new_zeros(*heatmaps.shape[:2], 3)
    sides = (boxes[:, 2:] - boxes[:, :2]).to(heatmaps.dtype).nan_to_num(1).clamp(min=1)  # width, height
    for k, (width, height) in enumerate(sides.ceil().long().tolist()):
        resized = F.interpolate(heatmaps[k, None], size=(height, width), mode="bicubic", align_corners=False)
        best, place = resized[0].flatten(1).max(dim=1)
        cells = torch.stack([place % width, place // width], dim=1) + 0.5
        found[k, :, :2] = boxes[k, :2] + cells * (sides[k] / sides[k].ceil())
        found[k, :, 2] = 1 / (heatmaps[k].flatten(1) - best[:, None]).exp().sum(dim=1)
    return found


@shape_of(decode_keypoints)
def _(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    return heatmaps.new_empty(*heatmaps.shape[:2], 3)
