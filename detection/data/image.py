"""Read image files: check the bytes, decode them with OpenCV, and report anything that is not an image."""

import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from detection.coco.limits import MAX_PIXELS
from detection.data.bands import has_bands, npy_size, read_bands
from detection.data.decoder_lines import decoded
from detection.data.errors import DamageWarning, ImageError
from detection.data.header import jpeg_frame, safe_to_decode, stored_size
from detection.data.signatures import GIF, JPEG, PNG
from detection.data.tiff import is_tiff
from detection.foreign import shown
from detection.structures import Depth
from detection.wording import plural

# This module's errors name the path of a file that cannot be decoded; OpenCV's own log lines do not.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

warnings.filterwarnings(
    "ignore", category=UserWarning, module=r"PIL\."
)  # about unusual fields that do not affect pixels

# Decode JPEG and PNG directly to RGB: swapping the channels afterwards costs a third of the decoding time.
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
_BGR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
_GRAY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def read_image(
    path: str | Path,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    reduce: int = 1,
    channels: int = 3,
    depth: Depth = 8,
) -> np.ndarray:
    """Decode an image.

    With ``channels=3``, gray, palette, transparent and CMYK images become RGB. With ``channels=1``, all images become
    gray. For any other value, the file must have exactly this number of channels (see :mod:`detection.data.bands`).

    With ``size``, the function returns the stored or the EXIF-rotated image, whichever has this size. Without ``size``,
    it applies the EXIF orientation.

    Args:
        path: image file.
        size: (height, width) in the annotations.
        max_pixels: largest number of pixels to accept.
        reduce: 2, 4 or 8 decodes a JPEG at 1/2, 1/4 or 1/8 of its sides, which is faster (Pillow calls this a draft).
            This needs ``size`` and 8-bit RGB. Other files, and JPEGs stored rotated, are decoded at full size.
        channels: number of channels to return.
        depth: bits per channel to return, 8 or 16, independent of the file. White is 255 or 65535.

    Returns:
        Array (H, W, channels), uint8 or, for depth 16, uint16.

    Raises:
        ValueError: the file is missing, is not an image, is broken, or does not have the requested size or number of
            channels, or has too many pixels. The message begins with the path.

    Example:
        >>> image = read_image("photo.jpg")  # doctest: +SKIP
        >>> image.shape  # doctest: +SKIP
        (480, 640, 3)
    """
    path = Path(path)
    return decode_image(read_bytes(path), path, size, max_pixels, reduce, channels, depth)


def decode_image(
    data: bytes,
    name: str | Path = "image",
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    reduce: int = 1,
    channels: int = 3,
    depth: Depth = 8,
    damage: list[str] | None = None,
) -> np.ndarray:
    """Decode the content of an image file, as :func:`read_image` does.

    Args:
        data: the whole content.
        name: begin of each error message, such as the path of the file.
        size, max_pixels, reduce, channels, depth: as for :func:`read_image`.
        damage: list that gets a line if the image is damaged, but could be read; None: warn.

    Raises:
        ValueError: as for :func:`read_image`.
    """
    path = Path(name)
    if has_bands(data):
        bands, turn = read_bands(path, data, channels, max_pixels)
        return to_depth(_settled(path, bands, turn, size), depth, path)
    data = check_whole(path, data, max_pixels)
    if data.startswith(GIF) and channels in (1, 3):
        return to_depth(_settled(path, _by_pillow(path, data, channels), 1, size), depth, path)
    buffer = np.frombuffer(data, dtype=np.uint8)
    reduces = reduce > 1 and (channels, depth) == (3, 8)
    if reduces and size is not None and data.startswith(JPEG) and jpeg_frame(data)[0] == tuple(size):
        sides = -(-size[0] // reduce), -(-size[1] // reduce)
        # If different sides become equal by rounding, the result's shape cannot show whether OpenCV applied EXIF.
        shows_rotation = size[0] == size[1] or sides[0] != sides[1]
        draft = _decode(path, buffer, _REDUCED[reduce], damage) if shows_rotation else None
        if draft is not None and draft.shape[:2] == sides:
            return cv2.cvtColor(draft, cv2.COLOR_BGR2RGB)
    colours = _RGB if data.startswith((JPEG, PNG)) else _BGR
    flags = {1: _GRAY, 3: colours}.get(channels, cv2.IMREAD_UNCHANGED)
    image = _decode(path, buffer, flags, damage)
    if size is not None and image.shape[:2] != tuple(size):
        stored = _decode(path, buffer, flags | cv2.IMREAD_IGNORE_ORIENTATION, damage)
        if stored.shape[:2] != tuple(size):
            raise _other_size(path, image, size)
        image = stored
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] != channels:
        raise ValueError(
            f"{path}: has {plural(image.shape[2], 'channel')}, but model.backbone.in_channels is {channels}; "
            "correct one of them"
        )
    image = to_depth(image, depth, path)
    if flags == _BGR:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA) if channels == 4 else image


def to_depth(image: np.ndarray, depth: Depth, path: str | Path = "image") -> np.ndarray:
    """Convert an image to 8 or 16 bits per channel; white stays white.

    Args:
        image: (H, W, C) uint8 or uint16.
        depth: 8 or 16.
        path: name for the error message.

    Raises:
        ValueError: the pixels are neither uint8 nor uint16.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: has {image.dtype} pixels; save it with 8 or 16 bits per channel")
    if image.dtype == np.uint8:
        return image if depth == 8 else image.astype(np.uint16) * 257
    if depth == 16:
        return image
    # 65535 / 255 = 257, so division by 257 with rounding maps white to white.
    small = np.empty(image.shape, dtype=np.uint8)
    for top in range(0, len(image), 256):  # in parts, because the uint32 values take four times the memory
        small[top : top + 256] = (image[top : top + 256].astype(np.uint32) + 128) // 257
    return small


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) as stored; read only the header.

    Raises:
        ValueError: the file is missing, is not an image, or has a broken header. The message begins with the path.
    """
    path = Path(path)
    start = read_bytes(path, most=1 << 20)
    # A TIFF can have its header at the end of the file, and an AVIF its frames.
    whole = is_tiff(start) or start[4:8] == b"ftyp"
    return _header_size(path, read_bytes(path) if whole else start)


def orientation(path: Path) -> int:
    """Return the EXIF orientation of an image, from 1 to 8.

    1 means: show the pixels as stored. 2 to 4 keep height and width, 5 to 8 swap them. The function also returns 1 for
    a file without this field, and for a file that is not an image.
    """
    if not path.is_file():
        return 1
    try:
        with Image.open(path) as image:  # reads the header only
            # Without this check, Pillow would search a PNG to the end, behind the pixels.
            found: Any = image.getexif().get(0x0112) if "exif" in image.info or image.format == "TIFF" else None
    except Exception:  # Pillow's readers raise anything on a broken header
        return 1
    return found if found in range(1, 9) else 1


def images_behind(path: Path) -> int:
    """Return the number of further images in a camera's MPO file, such as a second view, depth, or smaller copies.

    The function returns 0 for a file that is not an image.
    """
    try:
        if b"MPF\0" not in read_bytes(path, most=1 << 16):
            return 0
        with Image.open(path) as image:  # reads the header only
            return int(getattr(image, "n_frames", 1)) - 1 if image.format == "MPO" else 0
    except Exception:  # Pillow's readers raise anything on a broken header
        return 0


def read_bytes(path: Path, most: int = -1) -> bytes:
    """Return the content of a regular file, or its first ``most`` bytes.

    Raises:
        ValueError: the path is not a regular file (opening a pipe would block forever), cannot be read, or is empty.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError(
                f"{path}: is not a regular file; a folder, pipe or device cannot be an image; remove its entry"
            )
        with open(path, "rb") as file:
            data = file.read(most)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the image folder") from error
    if not data:
        raise ValueError(f"{path}: is empty; replace the file")
    return data


def check_whole(path: Path, data: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """Reject files that OpenCV would decode without an error.

    OpenCV fills the missing part of an incomplete file with gray. A header that claims gigapixels would fill the
    memory.

    Returns:
        The bytes to decode. A PNG comes without its text and profiles.

    Raises:
        ValueError: the file is incomplete, unsafe or too large. The message begins with the path.
    """
    height, width = _header_size(path, data)
    if width * height > max_pixels:
        raise ValueError(
            f"{path}: claims {width} x {height} pixels, more than {max_pixels}; scale it down, or raise data.max_pixels"
        )
    try:
        return safe_to_decode(data)
    except ImageError as error:
        raise ValueError(f"{path}: {error}") from error


def _other_size(path: Path, image: np.ndarray, size: tuple[int, int]) -> ValueError:
    height, width = image.shape[:2]
    return ValueError(
        f"{path}: is {height} x {width} (height x width), but its annotations say {size[0]} x {size[1]}; "
        "correct one of them"
    )


def _decode(path: Path, buffer: np.ndarray, flags: int, damage: list[str] | None) -> np.ndarray:
    """Decode an image; raise errors with the path, and report damage that the decoder tolerates."""
    try:
        image, lines = decoded(lambda: cv2.imdecode(buffer, flags))
    except cv2.error as error:
        raise ValueError(f"{path}: cannot be decoded ({error.err}); replace the file") from error
    why = f" ({shown(lines[0], 80)})" if lines else ""
    if image is None:
        raise ValueError(f"{path}: is not an image that OpenCV can decode{why}; replace the file or remove its entry")
    if lines:
        message = f"{path}: is damaged{why}; some pixels may be wrong; replace the file"
        if damage is None:
            warnings.warn(message, DamageWarning, stacklevel=4)
        else:
            damage.append(message)
    return image


def _header_size(path: Path, data: bytes) -> tuple[int, int]:
    """Return (height, width) of the stored pixels."""
    size = npy_size(data) if has_bands(data) and not is_tiff(data) else stored_size(data)
    if size is None:
        raise ValueError(f"{path}: is not an image, or its header is broken; replace the file or remove its entry")
    return size


def _settled(path: Path, stored: np.ndarray, turn: int, size: tuple[int, int] | None) -> np.ndarray:
    """Return the EXIF-rotated image, or the stored image if only that one has the requested size."""
    image = turned(stored, turn)
    if size is None or image.shape[:2] == tuple(size):
        return image
    if stored.shape[:2] == tuple(size):
        return stored
    raise _other_size(path, image, size)


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """Apply an EXIF orientation (1 to 8) to a stored image (H, W, channels)."""
    if turn >= 5:
        image = image.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        image = image[::-1]
    if turn in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _by_pillow(path: Path, data: bytes, channels: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["GIF"]) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # Pillow's readers raise anything on damage
        raise ValueError(f"{path}: cannot be decoded ({str(error)[:80]}); replace the file") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def shown_size(path: Path) -> tuple[int, int]:
    """Return (height, width) after the EXIF rotation, as annotation tools show the image.

    Raises:
        ValueError: the file is not an image. The message begins with the path.
    """
    height, width = image_size(path)
    return (width, height) if orientation(path) > 4 else (height, width)
