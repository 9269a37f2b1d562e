"""Resize the images of a batch on their device, instead of in the data loader."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_images(
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    wanted: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    flipped: Sequence[bool] | None = None,
) -> Tensor:
    """Resize each image to its own size by OpenCV's rules: bilinear, or the area mean if :func:`averages` is true.

    The result differs from OpenCV, whose bilinear weights have 11 bits, by at most one of 255 levels. The sizes are
    Python integers, so the function does not synchronise with the device.

    Args:
        images: (B, C, h, w) uint8 or uint16; each image is at the top left of its canvas.
        sizes: height, width of each image.
        wanted: new height, width of each image.
        canvas: height, width of the result.
        flipped: whether to flip each image horizontally; None: no image.

    Returns:
        (B, C, *canvas) of the same dtype, zero beyond the images, channels last.
    """
    resized = images.new_zeros((len(images), *canvas, images.shape[1])).permute(0, 3, 1, 2)
    for i, ((height, width), (rows, columns)) in enumerate(zip(sizes, wanted, strict=True)):
        image = images[i : i + 1, :, :height, :width]
        if (height, width) != (rows, columns):
            pixels = image.float()
            if averages((height, width), (rows, columns)):
                pixels = _coverage(height, rows, pixels) @ pixels @ _coverage(width, columns, pixels).T
            else:
                pixels = F.interpolate(pixels, size=(rows, columns), mode="bilinear", align_corners=False)
            image = pixels.round_()
        resized[i, :, :rows, :columns] = image[0].flip(-1) if flipped and flipped[i] else image[0]
    return resized


def averages(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Return whether an image shrinks by more than half, so that bilinear interpolation would skip pixels.

    The test compares areas, as the rounding of a single side could change its outcome.

    Args:
        old, new: height, width.
    """
    return 4 * new[0] * new[1] < old[0] * old[1]


def _coverage(old: int, new: int, like: Tensor) -> Tensor:
    """Return a matrix (new, old): the fraction of each new cell that each old cell covers."""
    cell = torch.arange(old, device=like.device)
    start = torch.arange(new, device=like.device)[:, None] * (old / new)
    return (torch.minimum(start + old / new, cell + 1) - torch.maximum(start, cell)).clamp(min=0) * (new / old)
