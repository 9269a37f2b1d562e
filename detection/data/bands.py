"""Images with any number of channels: NumPy's .npy, and TIFF through tifffile.

OpenCV reads a TIFF of two to four bands as a grey one, without a word, and none of more; Pillow reads neither. Of 16
bits whose colours are stored apart OpenCV makes noise.
"""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

_NPY, _TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Fields of a TIFF by their tags, and what they hold (TIFF 6.0, section 8).
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _TILE_WIDTH, _EXTRA = 256, 257, 258, 262, 277, 284, 322, 338
_FIELDS = {_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _TILE_WIDTH, _EXTRA}
_GRAYS, _COLOURS, _APART, _ALPHA = (0, 1), (2, 5, 6, 8), 2, (1, 2)  # colours: RGB, CMYK, YCbCr, Lab


def has_bands(data: bytes, channels: int) -> bool:
    """Whether :func:`read_bands` is to read this file: OpenCV cannot, or gets it wrong."""
    if not is_tiff(data):
        return data.startswith(_NPY)
    return channels not in (1, 3) or not _for_opencv(data)


def is_tiff(data: bytes) -> bool:
    """Whether this is a TIFF, by how it begins."""
    return data.startswith(_TIFF)


def read_bands(path: Path, data: bytes, channels: int | None, max_pixels: int) -> np.ndarray:
    """(H, W, channels) as the file has them, of the file's type; any number with None.

    Raises:
        ValueError: a broken file, another number of channels, too many pixels, or tifffile is not installed.
    """
    try:
        shape = _npy_shape(data) if data.startswith(_NPY) else _tiff_shape(data)
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
    except ImportError as error:
        raise ValueError(
            f"{path}: such a TIFF is read by tifffile, which is not here; pip install tifffile, or save it as .npy"
        ) from error
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
    except Exception:  # whatever a broken header raises
        return None
    return height, width


def _npy_shape(data: bytes) -> tuple[int, ...]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape: tuple[int, ...] = read(file)[0]
    return shape


def _for_opencv(data: bytes) -> bool:
    """Whether OpenCV reads this TIFF right, as gray or RGB; also if its header is broken, which OpenCV is to tell."""
    try:
        fields = _tiff_fields(data)
    except (struct.error, OverflowError):
        return True
    samples, apart = fields.get(_SAMPLES, 1), fields.get(_PLANAR) == _APART
    if samples == 1:
        return True
    if fields.get(_PHOTOMETRIC) in _GRAYS:  # with more than one: bands without a name, or gray with its opacity
        return samples == 2 and fields.get(_EXTRA) in _ALPHA and not apart and _TILE_WIDTH not in fields
    deep = fields.get(_BITS, 1) > 8
    return fields.get(_PHOTOMETRIC) in _COLOURS and samples <= 4 and not (deep and apart)


def _tiff_shape(data: bytes) -> tuple[int, ...]:
    """Height, width, channels, however they are stored."""
    fields = _tiff_fields(data)
    return fields[_HEIGHT], fields[_WIDTH], fields.get(_SAMPLES, 1)


def _tiff_fields(data: bytes) -> dict[int, int]:
    """The first number in each field of the first page, by its tag (TIFF 6.0, section 2; BigTIFF).

    Raises:
        struct.error, OverflowError: they would lie behind the end of the file.
    """
    order, big = "<" if data.startswith(b"II") else ">", data[2:4] in (b"+\0", b"\0+")
    offset, number, entry = (order + kind for kind in (("Q", "Q", "HHQ") if big else ("I", "H", "HHI")))
    position = struct.unpack_from(offset, data, 8 if big else 4)[0]
    fields = {}
    count, position = struct.unpack_from(number, data, position)[0], position + struct.calcsize(number)
    for _ in range(count):
        tag, kind, length = struct.unpack_from(entry, data, position)
        position += struct.calcsize(entry)
        value = {3: "H", 4: "I", 16: "Q"}.get(kind)
        if value is not None and length and tag in _FIELDS:
            fits = length * struct.calcsize(value) <= struct.calcsize(offset)
            place = position if fits else struct.unpack_from(offset, data, position)[0]
            fields[tag] = struct.unpack_from(order + value, data, place)[0]
        position += struct.calcsize(offset)
    return fields


def _tiff(data: bytes) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        pixels = np.asarray(page.asarray())
        apart = pixels.ndim == 3 and page.axes.startswith("S")
        return pixels.transpose(1, 2, 0) if apart else pixels
