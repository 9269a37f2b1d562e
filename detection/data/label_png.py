"""Read PNGs whose values are labels, not colours."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

VALUES = ("1", "L", "P", "I;16", "I;16B", "I")
"""Pillow's modes of images with one number per pixel; those of a palette are the numbers before it."""


def read_label_png(path: Path, size: tuple[int, int], colour: bool = False) -> np.ndarray:
    """Read the numbers of an image.

    Args:
        path: the file.
        size: (height, width) that it must have.
        colour: read three channels, as panoptic PNGs have.

    Returns:
        (H, W) int32, or (H, W, 3) uint8.

    Raises:
        ValueError: the file is missing or no image, or has another size or other channels.
    """
    try:
        with Image.open(path) as image:
            if (image.height, image.width) != tuple(size):  # before any pixel is decoded
                mine, its = f"{image.width} x {image.height}", f"{size[1]} x {size[0]}"
                raise ValueError(f"{path}: is {mine}, but its image is {its}; both must have one size")
            if colour and image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"{path}: has no colours ({image.mode}), but a panoptic PNG has R, G and B")
            if not colour and image.mode not in VALUES:
                raise ValueError(f"{path}: has colours ({image.mode}), but a label PNG has one number per pixel")
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such label file; give each image one, with the name of the image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read ({str(error)[:100]}); write it again") from error
    return pixels[..., :3] if colour else pixels.astype(np.int32)
