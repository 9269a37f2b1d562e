"""Resizing the images of a batch where they are: on a device that has time for it, instead of in the loader."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_images(
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    wanted: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    mirrored: Sequence[bool] | None = None,
) -> Tensor:
    """Each image in a size of its own, by OpenCV's rules: bilinear, or the mean over areas where it :func:`averages`.

    One level of 255 apart from OpenCV at most, whose bilinear weights have 11 bits. The sizes come from the host, so
    that it waits for nothing.

    Args:
        images: (B, C, h, w) uint8 or uint16, top left on their canvas.
        sizes: height, width of each.
        wanted: height, width that each shall have.
        canvas: height, width of the result.
        mirrored: which images to mirror left and right; none if not given.

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
        resized[i, :, :rows, :columns] = image[0].flip(-1) if mirrored and mirrored[i] else image[0]
    return resized


def averages(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether an image shrinks by more than half, so that bilinear interpolation would skip pixels.

    By the pixels: sides are rounded, and each alone would say something else at times.

    Args:
        old, new: height, width.
    """
    return 4 * new[0] * new[1] < old[0] * old[1]


def _coverage(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old): which part of each new cell each old one fills."""
    cell = torch.arange(old, device=like.device)
    start = torch.arange(new, device=like.device)[:, None] * (old / new)
    return (torch.minimum(start + old / new, cell + 1) - torch.maximum(start, cell)).clamp(min=0) * (new / old)
