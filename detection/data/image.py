"""Reading images: our own bytes, OpenCV's decoder, and a word on everything that is not an image."""

import os
import stat
import struct
from pathlib import Path

import cv2
import numpy as np

MAX_PIXELS = 178_956_970
"""Images that claim more pixels are refused before they are decoded (Pillow's limit, too)."""

# Straight to RGB: turning the channels round afterwards costs a third of the decoding.
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def read_image(
    path: str | Path, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS, reduce: int = 1
) -> np.ndarray:
    """Decode an image to RGB.

    Gray, palette, transparent and CMYK images become RGB; 16-bit ones are scaled to 8 bits. With ``size`` the EXIF
    orientation is settled by it: the stored or the rotated image, whichever has this size; without, EXIF is followed.

    Args:
        size: height, width that the annotations speak of.
        reduce: 2, 4 or 8: decode a JPEG at that fraction of its sides, which is faster (Pillow calls it a draft);
            needs ``size``. Other files, and JPEGs that are stored rotated, are decoded whole.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: no such file, no image, a broken one, one of another size or of too many pixels; with the path.
    """
    path = Path(path)
    data = _read_bytes(path)
    _check_whole(path, data, max_pixels)
    buffer = np.frombuffer(data, dtype=np.uint8)
    if reduce > 1 and size is not None and data.startswith(b"\xff\xd8") and _jpeg_size(data) == (size[1], size[0]):
        image = cv2.imdecode(buffer, _REDUCED[reduce])
        if image is not None and image.shape[:2] == (-(-size[0] // reduce), -(-size[1] // reduce)):
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    try:
        image = cv2.imdecode(buffer, _RGB)
    except cv2.error as error:
        raise ValueError(f"{path}: cannot be decoded ({error.err}); replace the file") from error
    if image is None:
        raise ValueError(f"{path}: is not an image that OpenCV can decode; replace the file or remove its entry")
    if size is not None and image.shape[:2] != tuple(size):
        stored = cv2.imdecode(buffer, _RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored is None or stored.shape[:2] != tuple(size):
            height, width = image.shape[:2]
            raise ValueError(
                f"{path}: is {height} x {width} (height x width), but its annotations say {size[0]} x {size[1]}; "
                "correct one of them"
            )
        image = stored
    return _to_bytes(path, image)


def _read_bytes(path: Path) -> bytes:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the image folder") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: is no regular file; a folder, pipe or device cannot be an image")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise ValueError(f"{path}: is empty; replace the file")
    return data


def _check_whole(path: Path, data: bytes, max_pixels: int) -> None:
    """Refuse what OpenCV would decode all the same: cut files come out grey, claims of gigapixels fill the memory."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        if len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
            _check_pixels(path, width, height, max_pixels)
        if b"IEND" not in data[-64:]:
            raise ValueError(f"{path}: the PNG is cut short; copy it again")
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg_size(data)
        if size is not None:
            _check_pixels(path, *size, max_pixels)
        # Cameras and tools append bytes after the end marker; a cut file has none in its last half.
        if data.rfind(b"\xff\xd9") < len(data) // 2:
            raise ValueError(f"{path}: the JPEG is cut short; copy it again")


def _check_pixels(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{path}: claims {width} x {height} pixels, more than {max_pixels}; scale it down")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width, height from the frame header."""
    position = 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return None


def _to_bytes(path: Path, image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        # 65535 / 255 = 257: white stays white, where dropping the high byte would saturate.
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise ValueError(f"{path}: has {image.dtype} pixels; save it with 8 or 16 bits per channel")
