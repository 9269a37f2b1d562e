"""Mask targets of RoIs, from the bitmaps of their objects.

B images   G ground truths (padded)   S RoIs   M bitmap side.
A bitmap covers its box with M x M cells; cell (i, j) holds the value at the centre of that part of the box.
Boxes: XYXY, continuous pixels; pixel (0, 0) covers [0, 1) x [0, 1) and is sampled at (0.5, 0.5).
"""

import torch
from torch import Tensor

UNKNOWN = 255
"""Value in all cells of a bitmap whose mask is unknown."""


def crop_masks(masks: Tensor, boxes: Tensor, matched: Tensor, rois: Tensor, size: int = 28) -> Tensor:
    """Return mask targets: the part of each matched object inside its RoI (Mask R-CNN, section 3).

    They are bilinear samples at the centres of the RoI's cells: 1 from 0.5 on, and 0 outside the object's box.

    Args:
        masks: (B, G, M, M) uint8 bitmaps of ``boxes``, M >= 2; UNKNOWN if an object has no mask.
        boxes: (B, G, 4).
        matched: (B, S) int64 index into G.
        rois: (B, S, 4) in the same pixels as ``boxes``.

    Returns:
        (B, S, size, size) float32: 0, 1, or -1 everywhere if the object's mask is unknown.
    """
    B, G, M, _ = masks.shape
    frames = boxes.gather(1, matched[..., None].expand(-1, -1, 4)).float()
    centres = (torch.arange(size, device=rois.device) + 0.5) / size
    rois = rois.float()
    points = rois[..., :2, None] + centres * (rois[..., 2:] - rois[..., :2])[..., None]  # (B, S, 2, size): x, y
    cell = (frames[..., 2:] - frames[..., :2]).clamp(min=1e-6) / M
    points = (points - frames[..., :2, None]) / cell[..., None]  # in cells of the bitmap
    inside = (points >= 0) & (points <= M)
    points = (points - 0.5).clamp(0, M - 1)
    low = points.long().clamp(0, M - 2)
    fraction = points - low

    x, y = low[..., 0, None, :], low[..., 1, :, None]
    along_x, along_y = fraction[..., 0, None, :], fraction[..., 1, :, None]
    flat = masks.reshape(-1)
    base = (torch.arange(B, device=masks.device)[:, None] * G + matched)[..., None, None] * (M * M)
    index = base + y * M + x  # (B, S, size, size)
    upper = torch.lerp(flat[index].float(), flat[index + 1].float(), along_x)
    index = index + M
    lower = torch.lerp(flat[index].float(), flat[index + 1].float(), along_x)
    target = (torch.lerp(upper, lower, along_y) >= 0.5) & inside[..., 0, None, :] & inside[..., 1, :, None]
    return torch.where(flat[base] == UNKNOWN, -1.0, target.float())
