"""Read .npy and TIFF images with any number of channels, which OpenCV cannot do."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.data.errors import ImageError
from detection.data.signatures import NPY
from detection.data.tiff import first_page, is_tiff
from detection.data.tiff_pixels import tiff_colours, tiff_samples
from detection.wording import plural

_DEEPEST = 8
"""When the caller names no number of channels, an image may have at most ``8 * max_pixels`` values."""


def has_bands(data: bytes) -> bool:
    """Return whether :func:`read_bands` reads this kind of file."""
    return data.startswith(NPY) or is_tiff(data)


def read_bands(path: Path, data: bytes, channels: int | None, max_pixels: int) -> tuple[np.ndarray, int]:
    """Return the pixels as stored, and the EXIF orientation.

    ``channels=3`` converts a gray, palette, CMYK or YCbCr TIFF to RGB. ``channels=1`` converts a color TIFF to gray.
    For any other value, the file must have exactly this number of channels.

    Args:
        path: the file; only error messages use it.
        data: content of the file.
        channels: number of channels to return. None returns all channels of the file.
        max_pixels: largest number of pixels to accept.

    Returns:
        Array (H, W, channels) of the file's dtype, and the orientation from 1 to 8. The orientation is 1 unless the
        result is gray or RGB.

    Raises:
        ValueError: the file is broken, has another number of channels, too many pixels, or more than one image. The
            message begins with the path.
    """
    try:
        if is_tiff(data):
            return _tiff(data, channels, max_pixels)
        return _npy(data, channels, max_pixels), 1
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def npy_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) from the header of a .npy file; None if the header is broken."""
    try:
        shape = _npy_header(data)[0]
    except ValueError:
        return None
    return (shape[0], shape[1]) if len(shape) in (2, 3) else None


def _tiff(data: bytes, channels: int | None, max_pixels: int) -> tuple[np.ndarray, int]:
    page = first_page(data, max_pixels)
    if channels in (1, 3) and (image := tiff_colours(data, page)) is not None:
        return _with_channels(image, channels), page.orientation
    _check_channels(page.samples, channels, page.height * page.width, max_pixels)
    return np.ascontiguousarray(tiff_samples(data, page)), 1


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert gray to RGB or RGB to gray, if the number of channels differs."""
    if image.shape[2] == channels:
        return np.ascontiguousarray(image)
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]


def _npy(data: bytes, channels: int | None, max_pixels: int) -> np.ndarray:
    shape, dtype = _npy_header(data)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ImageError(
            f"contains an array of shape {str(shape)[:60]}, not an image; save an array of height x width x channels"
        )
    if shape[0] * shape[1] > max_pixels:
        raise ImageError(
            f"claims {shape[1]} x {shape[0]} pixels, more than {max_pixels}; scale it down, or raise data.max_pixels"
        )
    found = shape[2] if len(shape) == 3 else 1
    _check_channels(found, channels, shape[0] * shape[1], max_pixels)
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise ImageError(f"has {str(dtype)[:40]} pixels; save it with 8 or 16 bits per channel")
    try:
        image = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise ImageError(f"cannot be decoded ({str(error)[:80]}); replace the file") from error
    return np.ascontiguousarray(image.reshape(*shape[:2], found), dtype=image.dtype.newbyteorder("="))


def _npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # NumPy parses a Python literal here, which can raise any exception
        reason = str(error).partition("\n")[0][:80]
        raise ImageError(f"its header is broken ({reason}); replace the file or remove its entry") from error
    return shape, dtype


def _check_channels(found: int, channels: int | None, pixels: int, max_pixels: int) -> None:
    if channels is not None and found != channels:
        raise ImageError(
            f"has {plural(found, 'channel')}, but model.backbone.in_channels is {channels}; correct one of them"
        )
    if channels is None and found * pixels > _DEEPEST * max_pixels:
        raise ImageError(
            f"has {plural(found, 'channel')}, which is too many for an image of this size; raise data.max_pixels"
        )
