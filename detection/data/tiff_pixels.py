"""The pixels of a TIFF: as the file has them, or as colors.

libtiff (through Pillow) decompresses each strip or tile, and stops at the length that the header allows. It gets a
header of ours that describes plain bytes; order, planes, palette and polarity are then a few lines of NumPy. OpenCV
reads a part of these kinds wrong without an error: 16 bits with white as zero, planes of 16 bits, opacity in tiles.
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
"""Samples that make the color, by photometric interpretation."""
_PLAIN, _FAX, _JPEG, _PACKED = 1, (2, 3, 4), 7, (5, 8, 32946, 32773, 34925, 50000)
"""Compressions: none; fax; JPEG; LZW, deflate (two numbers), PackBits, LZMA and Zstandard."""
_MULTIPLIED = 1
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def tiff_samples(data: bytes, page: Page) -> np.ndarray:
    """(H, W, samples) uint8 or uint16, as the file has them.

    Raises:
        ImageError: another type, an unknown compression, or damage.
    """
    _check(page)
    if page.compression == _JPEG or page.photometric == _YCBCR:
        return _by_pillow(data, page)
    planes = page.samples if page.apart else 1
    per = len(page.offsets) // planes
    parts = [_plane(data, page, range(k * per, (k + 1) * per)) for k in range(planes)]
    return parts[0] if planes == 1 else np.concatenate(parts, axis=2)


def tiff_colours(data: bytes, page: Page) -> np.ndarray | None:
    """(H, W, 1 or 3) uint8 or uint16: gray or RGB, black is 0; opacity is left out. None for bands without a meaning.

    Raises:
        ImageError: as for :func:`tiff_samples`, or colors of another kind.
    """
    _check(page)
    if page.photometric not in _COLOURS or (page.photometric == _CMYK and page.inks != 1):
        raise ImageError(f"has colors of another kind (photometric {page.photometric}); save it as RGB")
    number = _COLOURS[page.photometric]
    more = page.samples - number
    if more < 0:
        raise ImageError(
            f"its header is broken ({plural(page.samples, 'sample makes', 'samples make')} no color); replace the file"
        )
    if more > 1 or (number == 1 and more and page.extra[:1] not in ((1,), (2,))):
        return None
    if page.compression == _JPEG or page.photometric == _YCBCR:
        image = _by_pillow(data, page)
        return image if image.shape[2] in (1, 3) else image[..., :3]
    pixels = tiff_samples(data, page)
    image = pixels[..., :number]
    if page.photometric == _PALETTE:
        return _from_palette(image, page)
    if page.extra[:1] == (_MULTIPLIED,) and more:
        if page.photometric not in (_BLACK_IS_ZERO, _RGB):
            raise ImageError("has opacity that is multiplied into colors other than RGB; save it as RGB")
        return _by_rows(_divided, pixels)
    if page.photometric == _CMYK:
        return _by_rows(_without_ink, image)
    return np.iinfo(image.dtype).max - image if page.photometric == _WHITE_IS_ZERO else image


def _check(page: Page) -> None:
    if page.floats != 1 or page.bits not in (1, 2, 4, 8, 16):
        kind = {2: "signed integers", 3: "floats"}.get(page.floats, "numbers")
        raise ImageError(
            f"has pixels that are {kind} of {plural(page.bits, 'bit')}; save it with 8 or 16 bits per channel"
        )
    fax = page.compression in _FAX and (page.bits, page.samples) == (1, 1)
    jpeg = page.compression == _JPEG and page.bits == 8 and page.photometric in _COLOURS
    if not (page.compression == _PLAIN or page.compression in _PACKED or fax or jpeg):
        raise ImageError(f"is compressed in a way that is not supported ({page.compression}); save it with LZW or none")
    apart = page.apart and page.compression != _JPEG
    if page.photometric == _YCBCR and (page.bits, page.samples, apart) != (8, 3, False):
        raise ImageError("has YCbCr colors of an unusual form; save it as RGB")
    if page.predictor not in (1, 2) or (page.predictor == 2 and page.bits < 8):
        raise ImageError(f"is stored with predictor {page.predictor}; save it without")


def _plane(data: bytes, page: Page, numbers: range) -> np.ndarray:
    """(H, W, samples of this plane) from some strips or tiles."""
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
    """(height, width) bytes of strips or tiles, one below the other."""
    counts = page.counts or (height * width,)  # a single strip may go without
    parts = [data[page.offsets[k] : page.offsets[k] + counts[k]] for k in numbers]
    if page.compression != _PLAIN:
        return _by_libtiff(page, parts, height, width)
    # A strip's last rows may be longer than it needs, but never shorter.
    needed = [min(page.segment[0], height - k * page.segment[0]) * width for k in range(len(parts))]
    if any(len(part) < length for part, length in zip(parts, needed, strict=True)):
        raise ImageError("is cut short; copy it again")
    joined = b"".join(part[:length] for part, length in zip(parts, needed, strict=True))
    joined = joined.translate(_REVERSED) if page.fill == 2 else joined
    return np.frombuffer(joined, np.uint8).reshape(height, width)


def _by_libtiff(page: Page, parts: list[bytes], height: int, width: int) -> np.ndarray:
    """Decompress: each part becomes a strip of a TIFF of plain bytes, or of bits for a fax."""
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
    """(rows, bytes) to (rows, values); of fewer than 8 bits, white becomes 255, but numbers of colors stay."""
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
    """Change some rows at a time: the numbers in between take several times their memory."""
    return np.concatenate([change(pixels[top : top + 256]) for top in range(0, len(pixels), 256)])


def _divided(pixels: np.ndarray) -> np.ndarray:
    """The colors before they were multiplied by the opacity, which comes last."""
    image, opacity, white = pixels[..., :-1], pixels[..., -1:], np.iinfo(pixels.dtype).max
    whole = image.astype(np.uint32) * white // np.maximum(opacity, 1)
    return np.where(opacity == 0, image, np.minimum(whole, white)).astype(image.dtype)


def _without_ink(pixels: np.ndarray) -> np.ndarray:
    """CMYK to RGB: what each ink, and black, leaves of the light."""
    white = np.iinfo(pixels.dtype).max
    left = white - pixels.astype(np.uint32)
    return ((left[..., :3] * left[..., 3:] + white // 2) // white).astype(pixels.dtype)


def _by_pillow(data: bytes, page: Page) -> np.ndarray:
    """(H, W, channels): JPEG and YCbCr, which hold colors in blocks."""
    if page.orientation_at is not None:  # Pillow would turn the image
        data = data[: page.orientation_at] + struct.pack(page.order + "H", 1) + data[page.orientation_at + 2 :]
    image = _loaded(data)
    pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    if pixels.shape[:2] != (page.height, page.width):
        raise ImageError("has another size than its header says; save it again")
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _loaded(data: bytes) -> TiffImageFile:
    """An image that Pillow has decoded; its size is checked already."""
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
