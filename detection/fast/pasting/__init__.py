"""Predicted masks in an image: as COCO RLE, or drawn.

n detections   m side of a predicted mask
Boxes: XYXY, continuous pixels; pixel (0, 0) covers [0, 1) x [0, 1) and is sampled at (0.5, 0.5).

No function here builds a full frame, except :func:`paste_masks`, which is for pictures. :mod:`.native` does the work in
C where there is a compiler, :mod:`.runs` in NumPy elsewhere, to the last pixel the same.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.fast import kernels
from detection.fast.pasting import native, runs


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[dict[str, Any]]:
    """Predicted masks as COCO RLE, as if each were pasted into the image and encoded.

    Pasting is detectron2's: bilinear interpolation at the pixel centres, zero beyond the mask, 1 where the value
    reaches the threshold. Down a pixel column the interpolation is piecewise linear, so the ends of its runs follow
    from where it crosses the threshold; no pixel is ever drawn, and the cost does not grow with the height.

    Args:
        masks: (n, m, m) probabilities; NaN counts as 0.
        boxes: (n, 4) in pixels of the file; may leave the image. A box that is not finite or has no size is empty.
        threshold: above 0.

    Returns:
        n dicts of ``size`` [height, width] and ``counts`` (compressed, str, ready for json).
    """
    way = native if native.usable() else runs
    counts = way.encode(*_arrays(masks, boxes), height, width, _above_zero(threshold))
    return [{"size": [height, width], "counts": text} for text in counts]


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Predicted masks as full frames, pixel for pixel what :func:`encode_masks` encodes.

    Returns:
        (n, height, width) bool on the device of the masks; on a CPU column by column in memory. For pictures, as it
        needs n full frames.
    """
    if kernels.usable(masks):
        from detection.fast.kernels import paste

        return paste.paste(masks.detach().float(), boxes.detach(), height, width, _above_zero(threshold))
    way = native if native.usable() else runs
    frames = way.draw(*_arrays(masks, boxes), height, width, _above_zero(threshold))
    return torch.from_numpy(frames).transpose(1, 2).to(masks.device)


def rounded_frames(boxes: Tensor, side: int) -> Tensor:
    """Where torchvision pastes a mask instead of into its box.

    It surrounds the mask with a rim of one empty cell, widens the box by as much, cuts its corners to whole pixels
    towards zero, and counts the last one in.

    Args:
        boxes: (n, 4) in pixels of the file.
        side: m, of the mask without its rim.

    Returns:
        (n, 4) float64: the frame of the mask without its rim, for :func:`encode_masks` or :func:`paste_masks`.
    """
    low, high = boxes.double().unflatten(-1, (2, 2)).unbind(-2)
    centre, half = (low + high) / 2, (high - low) / 2 * (side + 2) / side
    first, last = (centre - half).trunc(), (centre + half).trunc()
    cell = (last - first + 1).clamp(min=1) / (side + 2)
    return torch.cat([first + cell, first + (side + 1) * cell], dim=-1)


def _arrays(masks: Tensor, boxes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(n, m, m) float32 without NaN and (n, 4) float64."""
    return np.nan_to_num(masks.detach().float().cpu().numpy()), boxes.detach().double().cpu().numpy()


def _above_zero(threshold: float) -> float:
    """Rounded as the masks are: a value that reaches it only in float32 would be left before it is reached."""
    rounded = float(np.float32(threshold))
    if not rounded > 0:
        raise ValueError(f"threshold is {threshold}, but must be above 0: everything outside the box has 0")
    return rounded
