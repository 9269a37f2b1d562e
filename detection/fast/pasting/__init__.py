"""Paste predicted masks into an image: as COCO RLE, or as bitmaps.

n detections   m side of a predicted mask.
Boxes: XYXY, continuous pixels; pixel (0, 0) covers [0, 1) x [0, 1) and is sampled at (0.5, 0.5).

Only :func:`paste_masks`, for visualisation, allocates full images. :mod:`.native` does the work in C if there is a
compiler, otherwise :mod:`.runs` in NumPy, with identical pixels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.fast import kernels
from detection.fast.pasting import native, runs


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[dict[str, Any]]:
    """Encode predicted masks as COCO RLE, with the result of pasting each into the image and encoding it.

    Pasting follows detectron2: bilinear interpolation at pixel centres, zero outside the mask, and 1 where the value
    reaches the threshold. Along a pixel column the interpolation is piecewise linear. So the function computes the ends
    of runs from the crossings of the threshold, without drawing pixels. The cost does not depend on the height.

    Args:
        masks: (n, m, m) probabilities; NaN counts as 0.
        boxes: (n, 4) in pixels of the file; may extend beyond the image. A box with NaN, Inf or no area gives an empty
            mask.
        height, width: size of the image in pixels.
        threshold: smallest probability of the object, above 0.

    Returns:
        n dicts with ``size`` [height, width] and ``counts`` (compressed, a str for JSON).
    """
    backend = native if native.usable() else runs
    counts = backend.encode(*_arrays(masks, boxes), height, width, _above_zero(threshold))
    return [{"size": [height, width], "counts": text} for text in counts]


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Paste predicted masks into full images, with the same pixels as :func:`encode_masks`.

    It needs memory for n full images, so use it for visualisation only.

    Returns:
        (n, height, width) bool on the device of the masks; on a CPU, columns are contiguous in memory.
    """
    if kernels.usable(masks):
        from detection.fast.kernels import paste

        return paste.paste(masks.detach().float(), boxes.detach(), height, width, _above_zero(threshold))
    backend = native if native.usable() else runs
    frames = backend.draw(*_arrays(masks, boxes), height, width, _above_zero(threshold))
    return torch.from_numpy(frames).transpose(1, 2).to(masks.device)


def rounded_frames(boxes: Tensor, side: int) -> Tensor:
    """Return the boxes into which torchvision pastes masks, which differ from the detected boxes.

    torchvision pads the mask by one empty cell and enlarges the box accordingly. Then it truncates the corners to whole
    pixels, and includes the last pixel.

    Args:
        boxes: (n, 4) in pixels of the file.
        side: m, side of the mask without padding.

    Returns:
        (n, 4) float64, boxes of the masks without padding, for :func:`encode_masks` or :func:`paste_masks`.
    """
    low, high = boxes.double().unflatten(-1, (2, 2)).unbind(-2)
    centre, half = (low + high) / 2, (high - low) / 2 * (side + 2) / side
    first, last = (centre - half).trunc(), (centre + half).trunc()
    cell = (last - first + 1).clamp(min=1) / (side + 2)
    return torch.cat([first + cell, first + (side + 1) * cell], dim=-1)


def _arrays(masks: Tensor, boxes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return arrays: masks (n, m, m) float32 without NaN, and boxes (n, 4) float64."""
    return np.nan_to_num(masks.detach().float().cpu().numpy()), boxes.detach().double().cpu().numpy()


def _above_zero(threshold: float) -> float:
    """Return the threshold rounded to float32 like the masks; otherwise a run could end before it starts."""
    rounded = float(np.float32(threshold))
    if not rounded > 0:
        raise ValueError(f"threshold is {threshold}; it must be above 0, as all pixels outside the box have value 0")
    return rounded
