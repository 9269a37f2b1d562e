"""Small windows of a feature map, for layers of which only a few outputs are asked for."""

import torch
from torch import Tensor


def patches(features: Tensor, image: Tensor, row: Tensor, column: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Windows around cells; gradients flow back into the map.

    Args:
        features: (B, C, H, W), best channels last.
        image, row, column: (R,) int64: where the middle of each window is; on the map.
        radius: cells to each side, so k = 2 * radius + 1.

    Returns:
        (R, C, k, k), zero beyond the map, channels last in memory; and (R, k, k) bool: what is on the map.
    """
    height, width = features.shape[-2:]
    step = torch.arange(-radius, radius + 1, device=features.device)
    rows, columns = row[:, None, None] + step[:, None], column[:, None, None] + step  # (R, k, 1), (R, 1, k)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = (image[:, None, None] * height + rows.clamp(0, height - 1)) * width + columns.clamp(0, width - 1)
    vectors = features.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, index.flatten())
    windows = vectors.view(*inside.shape, -1) * inside[..., None]
    return windows.permute(0, 3, 1, 2), inside
