"""Read and check the images that users pass to ``predict``."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detection.data.image import read_image, to_depth
from detection.home import with_home
from detection.models.detector import Detector

Image = str | Path | np.ndarray | Tensor
"""A file path; an (H, W, C) uint8 or uint16 array; or a (C, H, W) uint8 or uint16 tensor."""


def pixels_of(image: Image, model: Detector) -> np.ndarray:
    """Return the pixels of an image in the form that the model expects.

    Returns:
        (H, W, C) uint8, or uint16 for a model of 16-bit images.

    Raises:
        ValueError: this is a URL, the file is not an image, or the array has the wrong shape or dtype. The message says
            how to convert it.
    """
    channels = len(model.pixel_mean)
    if isinstance(image, str | Path):
        if "://" in str(image):
            raise ValueError(f"image: {image} is a URL; download the file, and give its path")
        return read_image(Path(with_home(image)), channels=channels, depth=model.depth)
    array = _array(image)
    if array.ndim != 3 or array.shape[2] != channels or array.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"image: expected uint8 or uint16{' RGB' if channels == 3 else ''}, an array (H, W, {channels}) or a "
            f"tensor ({channels}, H, W), got {tuple(getattr(image, 'shape', array.shape))} {array.dtype} "
            f"({type(image).__name__}){_remedy(array, isinstance(image, Tensor), channels)}"
        )
    return to_depth(array, model.depth)


def _remedy(array: np.ndarray, is_tensor: bool, channels: int) -> str:
    """Return how to convert an array into an image; an empty text if there is no obvious way."""
    last = 1 if is_tensor else 0  # the axis of the channels if the user has the other axis order
    if array.ndim == 3 and array.shape[2] != channels and array.shape[last] == channels:
        return "; give image.permute(2, 0, 1)" if is_tensor else "; give image.transpose(1, 2, 0)"
    if array.ndim == 2 and array.size:
        return f"; repeat the channel {channels} times" if channels > 1 else "; add an axis for the channel"
    if array.ndim == 4 and len(array) == 1:
        return "; give image[0]"
    if array.dtype.kind == "f" and array.size:
        if not np.isfinite(array).all() or array.min() < 0:
            return "; give the image before normalisation"
        scale = " * 255" if array.max() <= 1 else ""
        return f"; give (image{scale}).{'round().byte()' if is_tensor else 'round().astype(np.uint8)'}"
    if array.dtype.kind in "iu" and array.size and array.min() >= 0:
        return f"; give image{'.byte()' if is_tensor else '.astype(np.uint8)'} if its values are 0 to 255"
    return ""


def _array(image: Any) -> np.ndarray:
    """Return an (H, W, C) array if it is an image, and an empty array of objects if NumPy cannot convert it."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.permute(1, 2, 0) if image.ndim == 3 else image
    try:
        return np.asarray(image)
    except (TypeError, ValueError):  # bfloat16; a list of arrays of several shapes
        return np.array(None)
