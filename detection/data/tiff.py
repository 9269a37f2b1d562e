"""Read the header of a TIFF (TIFF 6.0, section 2; BigTIFF). Only this module decides how large such an image is.

Libraries interpret an unusual header differently: one takes the first of two widths, another the last. So this reader
is strict. It rejects every header with two possible meanings, before a library decodes any pixel.
"""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from detection.data.errors import ImageError
from detection.wording import plural

_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Tags (TIFF 6.0, section 8).
SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 255, 256, 257, 258, 259, 262, 266
DESCRIPTION, STRIPS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES, PLANAR = 270, 273, 274, 277, 278, 279, 284
FAX3, FAX4, PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES = 292, 293, 317, 320, 322, 323, 324, 325
INKS, EXTRA, FORMAT, DEPTH, TILE_DEPTH = 332, 338, 339, 32997, 32998

_SINGLE = {
    WIDTH: "ImageWidth", HEIGHT: "ImageLength", COMPRESSION: "Compression", PHOTOMETRIC: "PhotometricInterpretation",
    FILL_ORDER: "FillOrder", ORIENTATION: "Orientation", SAMPLES: "SamplesPerPixel", ROWS: "RowsPerStrip",
    PLANAR: "PlanarConfiguration", FAX3: "T4Options", FAX4: "T6Options", PREDICTOR: "Predictor", INKS: "InkSet",
    TILE_WIDTH: "TileWidth", TILE_HEIGHT: "TileLength", DEPTH: "ImageDepth", TILE_DEPTH: "TileDepth",
}  # fmt: skip
_SEVERAL = {
    BITS: "BitsPerSample", EXTRA: "ExtraSamples", FORMAT: "SampleFormat", COLOURS: "ColorMap", STRIPS: "StripOffsets",
    STRIP_BYTES: "StripByteCounts", TILES: "TileOffsets", TILE_BYTES: "TileByteCounts",
}  # fmt: skip
_INTEGERS = {3: "H", 4: "I", 16: "Q"}
_MOST_FIELDS, _MOST_PAGES = 4096, 10_000
_SMALL = 1 << 20
"""Tiles may always have this many pixels, even if ``max_pixels`` is smaller."""

Fields = dict[int, tuple[int, int, int]]
"""For each tag: the type, the number of values, and the offset of the first value."""


@dataclass(frozen=True)
class Page:
    """The first image of a TIFF, as its header describes it."""

    order: str
    """Byte order: ``<`` (little-endian) or ``>`` (big-endian)."""
    width: int
    height: int
    bits: int
    """Bits per sample."""
    samples: int
    """Samples per pixel, including those without a stated meaning."""
    photometric: int
    compression: int
    apart: bool
    """Whether each sample has its own plane."""
    floats: int
    """SampleFormat: 1 unsigned integers, 2 signed ones, 3 floats."""
    extra: tuple[int, ...]
    """The meaning of the last samples: 0 unspecified, 1 premultiplied alpha, 2 alpha."""
    predictor: int
    fill: int
    fax: dict[int, int]
    """Options of the fax compressions, by tag."""
    inks: int
    colours: tuple[int, ...]
    """The palette, 16 bits per value: all reds, then all greens, then all blues."""
    orientation: int
    orientation_at: int | None
    """Offset of the orientation value in the file."""
    tiled: bool
    segment: tuple[int, int]
    """Height and width of a strip or a tile."""
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    """Bytes of each strip or tile."""


def is_tiff(data: bytes) -> bool:
    """Return whether the data begin like a TIFF."""
    return data.startswith(_BEGINS)


def tiff_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of the first page, as stored.

    Raises:
        ImageError: the header is broken, or has two possible meanings.
    """
    fields = _Fields(data, _first(data))
    return fields.one(HEIGHT), fields.one(WIDTH)


def first_page(data: bytes, max_pixels: int) -> Page:
    """Return the header of the first page, after checks that limit the time and memory of decoding.

    Raises:
        ImageError: the header is broken or has two possible meanings, the image has too many pixels, or the file has
            more than one page.
    """
    first = _first(data)
    fields = _Fields(data, first)
    height, width = fields.one(HEIGHT), fields.one(WIDTH)
    if min(height, width) < 1:
        raise ImageError(f"its header is broken (it claims {width} x {height} pixels); replace the file")
    if height * width > max_pixels:
        raise ImageError(
            f"claims {width} x {height} pixels, more than {max_pixels}; scale it down, or raise data.max_pixels"
        )
    if (fields.one(DEPTH, 1), fields.one(TILE_DEPTH, 1)) != (1, 1):
        raise ImageError("contains a volume (ImageDepth); save each slice as an image")
    page = _page(fields, height, width)
    _check_segments(page, len(data), max_pixels)
    if (others := _other_pages(data, fields)) > 0:
        raise ImageError(
            f"contains {others + 1} images, and only the first could be used; save each page as an image, or, if the "
            "pages are channels, save one .npy array (height x width x channels)"
        )
    return page


def _page(fields: "_Fields", height: int, width: int) -> Page:
    samples = fields.one(SAMPLES, 1)
    tiled = TILE_WIDTH in fields.places or TILES in fields.places
    rows = min(fields.one(ROWS, height) or height, height)
    segment = (fields.one(TILE_HEIGHT), fields.one(TILE_WIDTH)) if tiled else (rows, width)
    orientation = fields.one(ORIENTATION, 1)
    return Page(
        order=fields.order,
        width=width,
        height=height,
        bits=fields.same(BITS, 1),
        samples=samples,
        photometric=fields.one(PHOTOMETRIC),
        compression=fields.one(COMPRESSION, 1),
        apart=fields.one(PLANAR, 1) == 2 and samples > 1,
        floats=fields.same(FORMAT, 1),
        extra=fields.all(EXTRA),
        predictor=fields.one(PREDICTOR, 1),
        fill=fields.one(FILL_ORDER, 1),
        fax={tag: fields.one(tag) for tag in (FAX3, FAX4) if tag in fields.places},
        inks=fields.one(INKS, 1),
        colours=fields.all(COLOURS),
        orientation=orientation if orientation in range(1, 9) else 1,
        orientation_at=fields.places[ORIENTATION][2] if ORIENTATION in fields.places else None,
        tiled=tiled,
        segment=segment,
        offsets=fields.all(TILES if tiled else STRIPS),
        counts=fields.all(TILE_BYTES if tiled else STRIP_BYTES),
    )


def _check_segments(page: Page, size: int, max_pixels: int) -> None:
    """Check that the strips or tiles have the right number, are inside the file, and do not exceed the limit."""
    if not 1 <= page.samples <= 65535 or not 1 <= page.bits <= 64:
        raise ImageError(f"its header is broken (samples: {page.samples}, bits: {page.bits}); replace the file")
    if min(page.segment) < 1:
        raise ImageError("its header is broken (a tile or strip has no pixels); replace the file")
    down, across = -(-page.height // page.segment[0]), -(-page.width // page.segment[1])
    padded = down * across * math.prod(page.segment)
    if page.tiled and padded > max(max_pixels, _SMALL):
        raise ImageError(
            f"claims tiles of {page.segment[1]} x {page.segment[0]} pixels, together more than {max_pixels}; save it "
            "with smaller tiles, or raise data.max_pixels"
        )
    needed = down * across * (page.samples if page.apart else 1)
    offsets, counts = page.offsets, page.counts
    if page.compression == 1 and needed == len(offsets) == 1 and not counts:
        return  # TIFF 6.0 allows a single strip without a length
    if len(offsets) != needed or len(counts) != needed:
        raise ImageError(
            f"its header is broken (strips or tiles: {plural(len(offsets), 'offset')}, "
            f"{plural(len(counts), 'length')}, but the image needs {needed} of each); replace the file"
        )
    if any(offset + count > size for offset, count in zip(offsets, counts, strict=True)):
        raise ImageError("is cut short; copy it again")


def _other_pages(data: bytes, first: "_Fields") -> int:
    """Return the number of further images, without thumbnails, masks and the smaller levels of a pyramid."""
    height, width = first.one(HEIGHT), first.one(WIDTH)
    seen, others = {first.start}, 0
    for start in islice(_chain(data, first), _MOST_PAGES):
        if start in seen:
            raise ImageError("its list of pages is circular; save it again")
        seen.add(start)
        page = _Fields(data, start)
        if page.one(SUBFILE, 0) & 0b101 or page.one(OLD_SUBFILE, 1) == 2:  # a reduced image, or a mask
            continue
        h, w = page.one(HEIGHT), page.one(WIDTH)
        level = h * w < height * width and abs(h - height * w / width) <= 2
        others += not level
    return others or _stacked(data, first) - 1


def _chain(data: bytes, first: "_Fields") -> Iterator[int]:
    page = first
    while page.next:
        yield page.next
        page = _Fields(data, page.next)


def _stacked(data: bytes, first: "_Fields") -> int:
    """Return the number of images that ImageJ wrote behind a single header."""
    if DESCRIPTION not in first.places:
        return 1
    _, length, place = first.places[DESCRIPTION]
    text = data[place : place + min(length, 4096)]
    found = re.search(rb"^images=(\d{1,9})\s*$", text, re.MULTILINE) if text.startswith(b"ImageJ=") else None
    # Most writers also give each image of a stack its own header: _other_pages has counted those.
    return max(1, int(found[1])) if found and not first.next else 1


def _first(data: bytes) -> int:
    order, big = _kind(data)
    try:
        if big and struct.unpack_from(order + "HH", data, 4) != (8, 0):
            raise ImageError("its header is broken; replace the file")
        return int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])
    except struct.error as error:
        raise ImageError("is cut short; copy it again") from error


def _kind(data: bytes) -> tuple[str, bool]:
    return ("<" if data.startswith(b"II") else ">"), data[2:4] in (b"+\0", b"\0+")


class _Fields:
    """The fields of one page.

    Raises:
        ImageError: the fields extend beyond the end of the file, are too many, or contain a tag twice.
    """

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.start = data, start
        self.order, self.big = _kind(data)
        self.places: Fields = {}
        offset, number, entry = (self.order + kind for kind in (("Q", "Q", "HHQ") if self.big else ("I", "H", "HHI")))
        room = struct.calcsize(offset)
        try:
            count, position = struct.unpack_from(number, data, start)[0], start + struct.calcsize(number)
            if count > _MOST_FIELDS:
                raise ImageError(f"its header is broken ({plural(count, 'field')}); replace the file")
            for _ in range(count):
                tag, kind, length = struct.unpack_from(entry, data, position)
                position += struct.calcsize(entry)
                if tag in self.places:
                    raise ImageError(f"has field {_name(tag)} twice; save it again")
                wide = length * {2: 1, 3: 2, 4: 4, 16: 8}.get(kind, 1) > room
                self.places[tag] = kind, length, struct.unpack_from(offset, data, position)[0] if wide else position
                position += room
            self.next = int(struct.unpack_from(offset, data, position)[0]) if position + room <= len(data) else 0
        except (struct.error, OverflowError) as error:
            raise ImageError("its header is cut short; copy it again") from error

    def one(self, tag: int, default: int | None = None) -> int:
        """Return the value of a field that has exactly one."""
        values = self.all(tag)
        if not values and default is not None and tag not in self.places:
            return default
        if len(values) != 1:
            raise ImageError(
                f"its header is broken ({_name(tag)} has {plural(len(values), 'value')} instead of 1); replace the file"
            )
        return values[0]

    def same(self, tag: int, default: int) -> int:
        """Return the value of a field that must be the same for all samples."""
        values = set(self.all(tag)) or {default}
        if len(values) > 1:
            raise ImageError(f"has a different {_name(tag)} per sample; save it with the same value for all")
        return values.pop()

    def all(self, tag: int) -> tuple[int, ...]:
        """Return the values of a field; an empty tuple if the page does not have it."""
        if tag not in self.places:
            return ()
        kind, length, place = self.places[tag]
        if kind not in _INTEGERS:
            raise ImageError(f"its header is broken ({_name(tag)} has type {kind}); replace the file")
        try:
            return struct.unpack_from(f"{self.order}{length}{_INTEGERS[kind]}", self.data, place)
        except (struct.error, OverflowError) as error:
            raise ImageError("its header is cut short; copy it again") from error


def _name(tag: int) -> str:
    return (_SINGLE | _SEVERAL).get(tag, str(tag))
