"""Masks of whole canvases inside an exported file, and the check that they are those of the pasting code.

B images, D detections, m mask side, H x W canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detection.data.collate import collate
from detection.data.sample import Sample
from detection.data.transforms import Resize
from detection.export.loading import Exported
from detection.fast.pasting import paste_masks, rounded_frames
from detection.models.mask_forms import has_rounded_frames

NEAR = 1e-4
"""Pixels whose probability is as near to 0.5 may be on either side."""


def full_masks(masks: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
    """Paste masks into their canvases, as :func:`~detection.fast.pasting.paste_masks`, with operators of every engine.

    Bilinear interpolation is a product of matrices: one interpolates down the columns, the other along the rows.

    Args:
        masks: (B, D, m, m) probabilities in the frames.
        frames: (B, D, 4) XYXY in pixels of the canvas; one without area gives an empty mask.
        height, width: size of the canvas.

    Returns:
        (B, D, H, W) uint8: 1 where the probability reaches 0.5.
    """
    side, padded = masks.shape[-1], F.pad(masks, (1, 1, 1, 1))
    down = _weights(height, frames[..., 1], frames[..., 3], side)  # (B, D, H, m + 2)
    along = _weights(width, frames[..., 0], frames[..., 2], side)  # (B, D, W, m + 2)
    return (down @ padded @ along.transpose(-1, -2) >= 0.5).to(torch.uint8)


def _weights(length: int, low: Tensor, high: Tensor, side: int) -> Tensor:
    """Return the weight of each cell, with one of padding at each end, for each pixel centre: (B, D, length, m + 2)."""
    size = (high - low)[..., None]
    points = torch.arange(length, device=low.device) + 0.5
    place = (points - low[..., None]) / size.clamp(min=1e-6) * side + 0.5  # (B, D, length), in cells
    inside = (place > 0) & (place < side + 1) & (size > 0)
    cells = torch.arange(side + 2, device=low.device)
    weights = (1 - (place[..., None] - cells).abs()).clamp(min=0)
    return (weights * inside[..., None]).to(torch.float32)


@dataclass(frozen=True)
class FullMasks:
    """How the full masks of an export differ from its masks in the frames, pasted into the canvas."""

    masks: int
    """Number of masks with a pixel."""
    pixels: int
    """Pixels that differ, though their probability is not near 0.5."""

    @property
    def passed(self) -> bool:
        """Whether there are masks, and none differs."""
        return self.masks > 0 and self.pixels == 0

    def line(self) -> str:
        """Return the result as text."""
        return f"full masks: {self.masks}, pixels that differ: {self.pixels}"


def check_full(exported: Exported, images: Sequence[tuple[str, np.ndarray]]) -> FullMasks:
    """Compare the full masks of an export with the pasted ones, in pixels of the canvas.

    The parity gate compares the boxes, and the masks in the frames, with those of the checkpoint.

    Args:
        exported: a loaded file with full masks.
        images: name and pixels (H, W, C) of each.
    """
    resize, number, wrong = Resize(*exported.test_size, exported.resize), 0, 0
    for _, image in images:
        sample = Sample(resize.image(image), 0, image.shape[:2])
        batch = collate([sample], divisor=exported.stride)
        found, full = exported.with_full_masks(batch.images, batch.sizes)
        assert full is not None
        assert found.masks is not None
        masks, boxes = found.masks[0], found.boxes[0]
        frames = rounded_frames(boxes, masks.shape[-1]) if has_rounded_frames(exported) else boxes
        height, width = full.shape[-2:]
        low, middle, high = (paste_masks(masks, frames, height, width, 0.5 + d) for d in (-NEAR, 0, NEAR))
        known = (found.labels[0] >= 0)[:, None, None]
        differs = (full[0] > 0) != (middle & known)
        wrong += int((differs & ((low == high) | ~known)).sum())
        number += int((full[0] > 0).flatten(1).any(dim=1).sum())
    return FullMasks(number, wrong)
