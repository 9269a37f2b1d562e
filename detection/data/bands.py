"""Images with any number of channels: NumPy's .npy, and TIFF through tifffile.

OpenCV reads a TIFF of four bands as a grey one, without a word, and none of more; Pillow reads neither.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

_NPY, _TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def has_bands(data: bytes, channels: int) -> bool:
    """Whether :func:`read_bands` is to read this file."""
    return data.startswith(_NPY) or (channels not in (1, 3) and data.startswith(_TIFF))


def read_bands(path: Path, data: bytes, channels: int | None, max_pixels: int) -> np.ndarray:
    """(H, W, channels) as the file has them, of the file's type; any number with None.

    Raises:
        ValueError: a broken file, another number of channels, too many pixels, or tifffile is not installed.
    """
    try:
        shape = _npy_shape(data) if data.startswith(_NPY) else _tiff_shape(data)
    except ImportError as error:
        raise ValueError(
            f"{path}: such a TIFF is read by tifffile, which is not here; pip install tifffile, or save it as .npy"
        ) from error
    except Exception as error:
        raise ValueError(f"{path}: its header is broken ({error}); replace the file or remove its entry") from error
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"{path}: holds an array of shape {shape}; an image is height x width x channels")
    if shape[0] * shape[1] > max_pixels:
        raise ValueError(
            f"{path}: claims {shape[1]} x {shape[0]} pixels, more than {max_pixels}; scale it down, or raise "
            "data.max_pixels"
        )
    found = shape[2] if len(shape) == 3 else 1
    if channels is not None and found != channels:
        raise ValueError(
            f"{path}: has {found} channels, but model.backbone.in_channels is {channels}; correct one of them"
        )
    try:
        image = np.load(io.BytesIO(data), allow_pickle=False) if data.startswith(_NPY) else _tiff(data)
    except Exception as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); replace the file") from error
    return np.ascontiguousarray(image.reshape(*shape[:2], found), dtype=image.dtype.newbyteorder("="))


def bands_size(data: bytes) -> tuple[int, int] | None:
    """Height, width from the header; None where it is another file or broken."""
    try:
        if data.startswith(_NPY):
            height, width = _npy_shape(data)[:2]
        elif data.startswith(_TIFF):
            height, width = _tiff_shape(data)[:2]
        else:
            return None
    except Exception:  # no tifffile, or whatever it raises on a broken header
        return None
    return height, width


def _npy_shape(data: bytes) -> tuple[int, ...]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape: tuple[int, ...] = read(file)[0]
    return shape


def _tiff_shape(data: bytes) -> tuple[int, ...]:
    """Height, width, channels, however they are stored."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        return page.imagelength, page.imagewidth, page.samplesperpixel


def _tiff(data: bytes) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        pixels = np.asarray(page.asarray())
        apart = pixels.ndim == 3 and page.axes.startswith("S")
        return pixels.transpose(1, 2, 0) if apart else pixels
