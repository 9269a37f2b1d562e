"""Check image files before a library decodes them: how large is the image, and is the file complete?

This module reads each size from the same place as the decoder does. It rejects a header that two readers could
interpret in two ways.
"""

import io
import re
import struct
from collections.abc import Iterator

from PIL import Image

from detection.data.avif import avif_frames
from detection.data.errors import ImageError
from detection.data.signatures import GIF, JPEG, PNG
from detection.data.tiff import is_tiff, tiff_size
from detection.wording import plural

_JP2, _J2K = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_SEPARATOR = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])+"
_PNM = re.compile(rb"P[1-6]" + _SEPARATOR + rb"(\d{1,9})" + _SEPARATOR + rb"(\d{1,9})[ \t\n\v\f\r]")

_NEEDLESS = {b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"sPLT"}
"""PNG chunks that do not affect any pixel. A file may have a thousand of them, and each may unpack to 8 MB."""
_MOST_CHUNKS, _MOST_SCANS, _MOST_TILES = 1_000_000, 100, 1024
_MOST_FRAMES = 4
"""All frames of an AVIF together may have at most this many times the pixels of the image."""

Size = tuple[int, int]
"""(height, width) as stored in the file, before any EXIF rotation."""


def stored_size(data: bytes) -> Size | None:
    """Return (height, width) as stored; None if the data are not an image or the header is broken.

    Args:
        data: the whole file, or its first megabyte. A TIFF must be complete.
    """
    try:
        size = _size(data)
    except (struct.error, ImageError, IndexError):
        return None
    return size if size is not None and min(size) >= 1 else None


def safe_to_decode(data: bytes) -> bytes:
    """Return the bytes to decode, if the file is complete, has one image, and needs no more memory than its size.

    Raises:
        ImageError: the file is incomplete or animated, or decoding would take far more time or memory than its size
            suggests.
    """
    try:
        return _checked(data)
    except (struct.error, IndexError) as error:
        raise ImageError("its header is cut short; copy it again") from error


def _checked(data: bytes) -> bytes:
    if data.startswith(PNG):
        return _safe_png(data)
    if data.startswith(JPEG):
        _check_jpeg(data)
    elif data.startswith(GIF):
        _check_gif(data)
    elif data[8:12] == b"WEBP":
        if sum(kind == b"ANMF" for kind in _riff_chunks(data)) > 1:
            raise _animated()
    elif data[4:8] == b"ftyp":
        if b"avis" in data[8 : min(int.from_bytes(data[:4], "big"), 256)]:
            raise _animated()
    elif data.startswith((_JP2, _J2K)):
        _check_jpeg2000(data)
    return data


def jpeg_frame(data: bytes) -> tuple[Size | None, int, bool]:
    """Return (height, width) from the frame header, the offset of the first scan, and whether more scans follow."""
    size, position, several, components = None, 2, False, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            more = several or (position + 4 < len(data) and data[position + 4] < components)
            return size, position, more
        if marker == 0x00:  # not a marker: the decoder would search for the next one in another way
            return None, len(data), False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 10 <= len(data):
            if size is not None:
                return None, len(data), False
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            size, several = (height, width), marker & 3 == 2  # progressive
        has_length = marker != 0x01 and not 0xD0 <= marker <= 0xD8
        position += 2 + (struct.unpack_from(">H", data, position + 2)[0] if has_length else 0)
    return size, len(data), several


def _size(data: bytes) -> Size | None:
    if data.startswith(JPEG):
        return jpeg_frame(data)[0]
    if data.startswith(PNG):
        width, height = struct.unpack_from(">II", data, 16)
        return (height, width) if data[8:16] == b"\0\0\0\rIHDR" else None
    if is_tiff(data):
        return tiff_size(data)
    if data.startswith(GIF):
        width, height = struct.unpack_from("<HH", data, 6)
        return height, width
    if data.startswith(b"BM"):
        short = struct.unpack_from("<I", data, 14) == (12,)
        width, height = struct.unpack_from("<HH" if short else "<ii", data, 18)
        return abs(height), width  # a negative height means that the first row is the top one
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if found := _PNM.match(data[:4096]):
        return int(found[2]), int(found[1])
    if data.startswith(b"\x59\xa6\x6a\x95"):
        width, height = struct.unpack_from(">II", data, 4)
        return height, width
    if data.startswith((_JP2, _J2K)):
        left, top = struct.unpack_from(">II", data, (place := _codestream(data)) + 16)
        right, bottom = struct.unpack_from(">II", data, place + 8)
        return bottom - top, right - left
    return _avif_size(data) if data[4:8] == b"ftyp" else None


def _webp_size(data: bytes) -> Size | None:
    kind = data[12:16] if len(data) >= 30 else b""
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _avif_size(data: bytes) -> Size | None:
    """Return the size that Pillow reads; None if frames in the file are larger, because it decodes those first."""
    try:
        with Image.open(io.BytesIO(data), formats=["AVIF"]) as image:
            height, width = image.height, image.width
    except Exception:  # Pillow's readers raise anything on a broken header
        return None
    frames = avif_frames(data)
    small = all(
        frame.largest <= 4 * frame.width * frame.height for frame in frames
    )  # the size fields use few spare bits
    pixels = sum(frame.width * frame.height for frame in frames)  # color, opacity, tiles and thumbnails
    return (height, width) if small and pixels <= _MOST_FRAMES * height * width else None


def _safe_png(data: bytes) -> bytes:
    """Return the PNG without its text and color-profile chunks."""
    (height, width), position, ended, parts, kept = stored_size(data) or (0, 0), len(PNG), False, [], 0
    for _ in range(_MOST_CHUNKS):
        if position + 12 > len(data) or ended:
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind == b"acTL" and length >= 4 and struct.unpack_from(">I", data, position + 8) > (1,):
            raise _animated()
        if kind == b"fcTL" and length >= 12:
            w, h = struct.unpack_from(">II", data, position + 12)
            if w > width or h > height:
                raise ImageError("has a frame larger than the image; replace the file")
        if kind in _NEEDLESS:
            parts.append(data[kept:position])
            kept = end
        position, ended = end, kind == b"IEND"
    if not ended or position > len(data):
        raise ImageError("the PNG is cut short; copy it again")
    return b"".join([*parts, data[kept:]]) if parts else data


def _check_jpeg(data: bytes) -> None:
    _, begin, several = jpeg_frame(data)
    # A thumbnail before the scan can have its own end marker, so the search starts at the scan.
    if data.rfind(b"\xff\xd9", begin) < 0:
        raise ImageError("the JPEG is cut short; copy it again")
    # The decoder visits the whole image once per scan, even if the scan has only a few bytes.
    if several and data.count(b"\xff\xda", begin) > _MOST_SCANS:
        raise ImageError(f"the JPEG has more than {_MOST_SCANS} scans; save it again")


def _check_gif(data: bytes) -> None:
    """Check that there is one image, and that it is inside the canvas. Pillow would enlarge the canvas otherwise."""
    width, height = struct.unpack_from("<HH", data, 6)
    for number, (left, top, w, h) in enumerate(_gif_images(data)):
        if left + w > width or top + h > height:
            raise ImageError("has a frame that extends beyond the image; save it again")
        if number > 0:
            raise _animated()


def _gif_images(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (left, top, width, height) of each image; stop at the end of the file, or where it is broken."""
    flags = data[10] if len(data) > 10 else 0
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while position < len(data) and data[position] in (0x21, 0x2C):
        if data[position] == 0x21:
            position += 2
        else:
            if position + 11 > len(data):
                return
            yield struct.unpack_from("<4H", data, position + 1)
            flags = data[position + 9]
            position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1


def _riff_chunks(data: bytes) -> Iterator[bytes]:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        yield kind
        position += 8 + length + (length & 1)


def _codestream(data: bytes) -> int:
    """Return the offset of the codestream in a JPEG 2000 file.

    Raises:
        struct.error: there is no valid codestream.
    """
    position = 0
    while not data.startswith(_J2K, position):
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, position + 8), 16
        if kind == b"jp2c":
            position += head
            if not data.startswith(_J2K, position):
                raise struct.error("the codestream does not begin with its size")
            return position
        if length < head:
            raise struct.error("a box has no valid length")
        position += length
    return position


def _check_jpeg2000(data: bytes) -> None:
    """Limit the number of tiles, components and palette channels, for each of which the decoder takes memory."""
    place = _codestream(data)
    right, bottom, left, top, tile_w, tile_h, _, _, components = struct.unpack_from(">8IH", data, place + 8)
    if components > 4 or min(tile_w, tile_h) < 1:
        raise ImageError(f"has {plural(components, 'component')}, or empty tiles; save it as PNG")
    pixels = (right - left) * (bottom - top)
    if -(-right // tile_w) * -(-bottom // tile_h) > _MOST_TILES + pixels // 4096:
        raise ImageError("has too many tiles for its number of pixels; save it as PNG")
    # Each column of a palette becomes one channel, so that a pixel can have up to 255 channels.
    for palette in re.finditer(b"pclr", data[:place]):
        if (channels := data[palette.end() + 2]) > 4:
            raise ImageError(f"has a palette of {channels} channels; save it as PNG")


def _animated() -> ImageError:
    return ImageError("contains more than one image, and only the first could be used; save each image in its own file")
