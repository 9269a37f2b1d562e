"""Decode the pixels of a TIFF, as stored or as gray or RGB.

libtiff (through Pillow) decompresses each strip or tile, and stops at the length in the header. This module gives it a
new header that describes plain bytes. NumPy then handles byte order, planes, palette and inverted gray. OpenCV reads
some kinds of TIFF wrongly without an error: 16-bit white-is-zero images, planes of 16 bits, and tiles with alpha.
"""

import io
import struct
from collections.abc import Callable

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from detection.data.decoder_lines import decoded
from detection.data.errors import ImageError
from detection.data.tiff import FILL_ORDER, Page
from detection.foreign import shown
from detection.wording import plural

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
"""Number of color samples for each photometric interpretation."""
_PLAIN, _FAX, _JPEG, _PACKED = 1, (2, 3, 4), 7, (5, 8, 32946, 32773, 34925, 50000)
"""Compression codes: none; fax; JPEG; LZW, deflate (two codes), PackBits, LZMA and Zstandard."""
_MULTIPLIED = 1
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def tiff_samples(data: bytes, page: Page) -> np.ndarray:
    """Return all samples (H, W, samples) as stored, uint8 or uint16.

    Raises:
        ImageError: the pixel type or the compression is not supported, or the file is damaged.
    """
    _check(page)
    if page.compression == _JPEG or page.photometric == _YCBCR:
        return _by_pillow(data, page)
    planes = page.samples if page.apart else 1
    per = len(page.offsets) // planes
    parts = [_plane(data, page, range(k * per, (k + 1) * per)) for k in range(planes)]
    return parts[0] if planes == 1 else np.concatenate(parts, axis=2)


def tiff_colours(data: bytes, page: Page) -> np.ndarray | None:
    """Return the image as gray or RGB (H, W, 1 or 3), uint8 or uint16; black is 0, and alpha is left out.

    Returns:
        The image, or None if the page has bands whose meaning the header does not state.

    Raises:
        ImageError: as for :func:`tiff_samples`, or the color space is not supported.
    """
    _check(page)
    if page.photometric not in _COLOURS or (page.photometric == _CMYK and page.inks != 1):
        raise ImageError(f"has an unsupported color space (photometric {page.photometric}); save it as RGB")
    number = _COLOURS[page.photometric]
    more = page.samples - number
    if more < 0:
        raise ImageError(
            f"its header is broken ({plural(page.samples, 'sample')} per pixel, but its color space needs {number}); "
            "replace the file"
        )
    if more > 1 or (number == 1 and more and page.extra[:1] not in ((1,), (2,))):
        return None
    if page.compression == _JPEG or page.photometric == _YCBCR:
        return _by_pillow(data, page)
    pixels = tiff_samples(data, page)
    image = pixels[..., :number]
    if page.photometric == _PALETTE:
        return _from_palette(image, page)
    if page.extra[:1] == (_MULTIPLIED,) and more:
        if page.photometric not in (_BLACK_IS_ZERO, _RGB):
            raise ImageError("has premultiplied alpha in a color space other than RGB; save it as RGB")
        return _by_rows(_divided, pixels)
    if page.photometric == _CMYK:
        return _by_rows(_without_ink, image)
    return np.iinfo(image.dtype).max - image if page.photometric == _WHITE_IS_ZERO else image


def _check(page: Page) -> None:
    if page.floats != 1 or page.bits not in (1, 2, 4, 8, 16):
        kind = {2: "signed integers", 3: "floats"}.get(page.floats, "numbers")
        raise ImageError(
            f"has pixels of {plural(page.bits, 'bit')} ({kind}); save it with 8 or 16 bits per channel, unsigned"
        )
    fax = page.compression in _FAX and (page.bits, page.samples) == (1, 1)
    jpeg = page.compression == _JPEG and page.bits == 8 and page.photometric in _COLOURS
    if not (page.compression == _PLAIN or page.compression in _PACKED or fax or jpeg):
        raise ImageError(
            f"has an unsupported compression (code {page.compression}); save it with LZW or without compression"
        )
    apart = page.apart and page.compression != _JPEG
    if page.photometric == _YCBCR and (page.bits, page.samples, apart) != (8, 3, False):
        raise ImageError("has an unsupported form of YCbCr colors; save it as RGB")
    if page.predictor not in (1, 2) or (page.predictor == 2 and page.bits < 8):
        raise ImageError(f"has the unsupported predictor {page.predictor}; save it without a predictor")


def _plane(data: bytes, page: Page, numbers: range) -> np.ndarray:
    """Return one plane (H, W, samples of this plane), made from the given strips or tiles."""
    samples = 1 if page.apart else page.samples
    rows, columns = page.segment
    width = -(-columns * samples * page.bits // 8)  # bytes
    height = rows * len(numbers) if page.tiled else page.height
    packed = _unpacked(data, page, numbers, height, width)
    values = _numbers(packed, page)[:, : columns * samples].reshape(height, columns, samples)
    if page.predictor == 2 and page.compression in _PACKED:
        values = np.cumsum(values, axis=1, dtype=values.dtype)
    if not page.tiled:
        return values
    down, across = -(-page.height // rows), -(-page.width // columns)
    laid = values.reshape(down, across, rows, columns, samples).swapaxes(1, 2)
    return laid.reshape(down * rows, across * columns, samples)[: page.height, : page.width]


def _unpacked(data: bytes, page: Page, numbers: range, height: int, width: int) -> np.ndarray:
    """Return the decompressed bytes (height, width) of strips or tiles, one below the other."""
    counts = page.counts or (height * width,)  # a single strip may have no stated length
    parts = [data[page.offsets[k] : page.offsets[k] + counts[k]] for k in numbers]
    if page.compression != _PLAIN:
        return _by_libtiff(page, parts, height, width)
    # A strip may have more bytes than its rows need, but never fewer.
    needed = [min(page.segment[0], height - k * page.segment[0]) * width for k in range(len(parts))]
    if any(len(part) < length for part, length in zip(parts, needed, strict=True)):
        raise ImageError("is cut short; copy it again")
    joined = b"".join(part[:length] for part, length in zip(parts, needed, strict=True))
    joined = joined.translate(_REVERSED) if page.fill == 2 else joined
    return np.frombuffer(joined, np.uint8).reshape(height, width)


def _by_libtiff(page: Page, parts: list[bytes], height: int, width: int) -> np.ndarray:
    """Decompress with libtiff: each part becomes a strip of a new TIFF of plain bytes (of bits for a fax)."""
    fax = page.compression in _FAX
    fields = {256: page.segment[1] if fax else width, 257: height, 258: 1 if fax else 8, 259: page.compression, 262: 1}
    fields |= {FILL_ORDER: page.fill, 277: 1, 278: page.segment[0]} | page.fax
    tags = sorted([*fields, 273, 279])
    lists_at = 8 + 2 + 12 * len(tags) + 4
    data_at, number = lists_at + 8 * len(parts), len(parts)
    starts = np.cumsum([data_at] + [len(part) for part in parts])[:-1].tolist()
    head = [struct.pack("<2sHIH", b"II", 42, 8, len(tags))]
    for tag in tags:
        if tag in fields:
            head.append(struct.pack("<HHII", tag, 4, 1, fields[tag]))
        else:
            values = starts if tag == 273 else [len(part) for part in parts]
            place = values[0] if number == 1 else lists_at + (0 if tag == 273 else 4 * number)
            head.append(struct.pack("<HHII", tag, 4, number, place))
    lists = struct.pack(f"<I{2 * number}I", 0, *starts, *map(len, parts))
    image = _loaded(b"".join([*head, lists, *parts]))
    array = np.asarray(image)
    return np.packbits(array, axis=1) if fax else array


def _numbers(packed: np.ndarray, page: Page) -> np.ndarray:
    """Convert (rows, bytes) to (rows, values). Fewer than 8 bits are scaled to 0..255, except palette indices."""
    if page.bits == 16:
        values = np.ascontiguousarray(packed).view(page.order + "u2")
        return values.astype(np.uint16)
    if page.bits == 8:
        return packed
    shifts = np.arange(8 - page.bits, -1, -page.bits, dtype=np.uint8)
    values = ((packed[..., None] >> shifts) & (2**page.bits - 1)).reshape(len(packed), -1)
    return values if page.photometric == _PALETTE else values * np.uint8(255 // (2**page.bits - 1))


def _from_palette(image: np.ndarray, page: Page) -> np.ndarray:
    size = 2**page.bits
    if page.bits > 8 or len(page.colours) != 3 * size:
        raise ImageError(
            f"has a palette of {plural(len(page.colours) // 3, 'color')} for {plural(page.bits, 'bit')}; save it as RGB"
        )
    return (np.array(page.colours).reshape(3, size).T >> 8).astype(np.uint8)[image[..., 0]]


def _by_rows(change: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Apply ``change`` to 256 rows at a time, because its intermediate values take several times the memory."""
    return np.concatenate([change(pixels[top : top + 256]) for top in range(0, len(pixels), 256)])


def _divided(pixels: np.ndarray) -> np.ndarray:
    """Undo premultiplied alpha; alpha is the last channel."""
    image, opacity, white = pixels[..., :-1], pixels[..., -1:], np.iinfo(pixels.dtype).max
    whole = image.astype(np.uint32) * white // np.maximum(opacity, 1)
    return np.where(opacity == 0, image, np.minimum(whole, white)).astype(image.dtype)


def _without_ink(pixels: np.ndarray) -> np.ndarray:
    """Convert CMYK to RGB: multiply the light that each ink and black let through."""
    white = np.iinfo(pixels.dtype).max
    left = white - pixels.astype(np.uint32)
    return ((left[..., :3] * left[..., 3:] + white // 2) // white).astype(pixels.dtype)


def _by_pillow(data: bytes, page: Page) -> np.ndarray:
    """Decode JPEG and YCbCr, which store colors in blocks, to (H, W, channels)."""
    if page.orientation_at is not None:  # set the orientation to 1; otherwise Pillow rotates the image
        data = data[: page.orientation_at] + struct.pack(page.order + "H", 1) + data[page.orientation_at + 2 :]
    image = _loaded(data)
    pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    if pixels.shape[:2] != (page.height, page.width):
        raise ImageError("has another size than its header says; save it again")
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _loaded(data: bytes) -> TiffImageFile:
    """Decode an image with Pillow; the caller has checked its size."""
    try:
        image = TiffImageFile(io.BytesIO(data))
        _, lines = decoded(image.load)
        if lines:
            raise ImageError(shown(lines[0], 80))
    except Exception as error:  # Pillow's readers raise anything on damage
        raise ImageError(
            f"cannot be decoded ({str(error)[:80] or type(error).__name__}); replace it, or save it as PNG"
        ) from error
    return image
