"""Headers written byte by byte: where each size stands, and the exact limit of each check."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from detection.data import header
from detection.data.errors import ImageError
from detection.data.header import _gif_images, jpeg_frame, safe_to_decode, stored_size
from detection.data.signatures import PNG

FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers of a JPEG that begin a frame, and those without a length."""


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def frame(width: int, height: int, components: int = 3, marker: int = 0xC0) -> bytes:
    return segment(marker, b"\x08" + struct.pack(">HHB", height, width, components) + bytes(3 * components))


def scan(components: int = 3) -> bytes:
    return segment(0xDA, bytes([components]) + bytes(2 * components + 3))


def jpeg(*segments: bytes, end: bytes = b"\xff\xd9") -> bytes:
    return b"\xff\xd8" + b"".join(segments) + end


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, width: int = 50, height: int = 37) -> bytes:
    return PNG + chunk(b"IHDR", struct.pack(">II", width, height) + b"\x08\2\0\0\0") + b"".join(chunks)


END = chunk(b"IEND")


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    content = b"".join(kind + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for kind, c in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content


def j2k(right: int, bottom: int, left: int = 0, top: int = 0, tile=(0, 0), components: int = 3) -> bytes:
    width, height = tile[0] or right, tile[1] or bottom
    return b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 47, 0, right, bottom, left, top, width, height, 0, 0, components)


SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"


def box(kind: bytes, content: bytes = b"", long: bool = False) -> bytes:
    """A box of JPEG 2000, with its length in 4 or in 8 bytes."""
    if long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def gif(*parts: bytes, width: int = 50, height: int = 37, colors: int | None = None) -> bytes:
    flags = 0 if colors is None else 0x80 | colors
    palette = b"" if colors is None else b"\x21" * 3 * 2 ** (colors + 1)  # would begin an extension
    return b"GIF89a" + struct.pack("<HHBBB", width, height, flags, 0, 0) + palette + b"".join(parts) + b"\x3b"


def gif_image(left: int, top: int, width: int, height: int, colors: int | None = None) -> bytes:
    flags = 0 if colors is None else 0x80 | colors
    palette = b"" if colors is None else bytes(3 * 2 ** (colors + 1))
    return b"\x2c" + struct.pack("<4HB", left, top, width, height, flags) + palette + b"\x08\x02\x21\x2c\x01\x2c\0"


EXTENSION = b"\x21\xf9\x04\x2c\x2c\x2c\x2c\0"

SIZES = {
    "png": (png(), 24),
    "gif": (gif(), 10),
    "bmp": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 50, 37), 26),
    "bmp upside down": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 50, -37), 26),
    "bmp of OS/2": (b"BM" + bytes(12) + struct.pack("<IHH", 12, 50, 37), 22),
    "ppm": (b"P6\n50 37\n255\n", 9),
    "sun raster": (b"\x59\xa6\x6a\x95" + struct.pack(">II", 50, 37), 12),
    "webp": (webp((b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 50, 37))), 30),
    "scaled webp": (webp((b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 0x4000 + 50, 0xC000 + 37))), 30),
    "lossless webp": (webp((b"VP8L", b"\x2f" + struct.pack("<I", 49 | 36 << 14) + bytes(5))), 30),
    "lossless webp with alpha": (webp((b"VP8L", b"\x2f" + struct.pack("<I", 49 | 36 << 14 | 1 << 28) + bytes(5))), 30),
    "extended webp": (webp((b"VP8X", bytes(4) + b"\x31\0\0\x24\0\0")), 30),
    "j2k": (j2k(50, 37), 24),
    "j2k with an offset": (j2k(60, 41, 10, 4), 24),
    "jp2": (SIGNATURE + box(b"ftyp", b"jp2 ") + box(b"jp2c", j2k(50, 37)), 12 + 12 + 8 + 24),
    "jp2 with long boxes": (
        SIGNATURE + box(b"free", long=True) + box(b"free") + box(b"jp2c", j2k(50, 37), long=True),
        12 + 16 + 8 + 16 + 24,
    ),
    "jpeg": (jpeg(segment(0xE0, bytes(3)), frame(50, 37)), 2 + 7 + 10),
}
"""By kind: a file of 50 x 37, and how many of its bytes the size needs."""


@pytest.mark.parametrize("kind", SIZES)
def test_a_size_is_read_as_soon_as_its_last_byte_is_there(kind):
    data, needed = SIZES[kind]
    assert stored_size(data) == stored_size(data[:needed]) == (37, 50)
    assert stored_size(data[: needed - 1]) is None


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(width=1, height=1), (1, 1)),
        (png(width=0, height=1), None),
        (png(width=1, height=0), None),
        (png().replace(b"IHDR", b"CgBI"), None),
        (webp((b"VP8L", b"\x2f" + bytes(9))), (1, 1)),
        (webp((b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(5))), (1 << 14, 1 << 14)),
        (webp((b"VP8L", b"\x2e\xff\xff\xff\x0f" + bytes(5))), None),
        (webp((b"VP8 ", bytes(3) + b"\x9d\x01\x2a\xff\x7f\xfe\xff")), (0x3FFE, 0x3FFF)),
        (webp((b"VP8 ", bytes(3) + b"\x9d\x01\x2b\xff\x7f\xfe\xff")), None),
        (webp((b"VP8X", bytes(4) + b"\x01\x02\x03\x04\x05\x06")), (1 + 0x060504, 1 + 0x030201)),
        (b"BM" + bytes(12) + struct.pack("<IHH", 12, 50, 65535), (65535, 50)),
    ],
)
def test_extreme_sizes(data, size):
    assert stored_size(data) == size


def test_a_header_of_text_may_take_4096_bytes():
    for length, size in ((4096, (2, 1)), (4097, None)):
        data = b"P5#" + b"x" * (length - 8) + b"\n1 2 "
        assert len(data) == length
        assert stored_size(data) == size


@pytest.mark.parametrize("length", [7, 8, 15, 16])
def test_a_box_is_at_least_as_long_as_its_head(length):
    rest = box(b"jp2c", j2k(50, 37))
    if length < 10:
        data = SIGNATURE + struct.pack(">I4s", length, b"free") + rest
    else:
        data = SIGNATURE + struct.pack(">I4sQ", 1, b"free", length) + rest
    assert stored_size(data) == ((37, 50) if length in (8, 16) else None)


def test_a_codestream_begins_with_its_size():
    assert stored_size(SIGNATURE + box(b"jp2c", b"\0" + j2k(50, 37))) is None


@pytest.mark.parametrize("marker", range(256))
def test_each_marker_of_a_jpeg(marker):
    """Other segments are passed over, a second frame header leaves no size, and a scan ends the search."""
    first = bytes([0xFF, marker]) if marker in ALONE else frame(9, 8, marker=marker)
    found = jpeg_frame(jpeg(first, frame(50, 37), scan()))
    at = 2 + len(first) + len(frame(50, 37))
    if marker == 0x00 or marker in FRAMES:
        assert found == (None, len(jpeg(first, frame(50, 37), scan())), False)
    elif marker == 0xDA:
        assert found == (None, 2, False)
    elif marker == 0xFF:  # it fills the space in front of a marker; then the length is no marker
        assert found[0] is None
        assert jpeg_frame(jpeg(b"\xff", frame(50, 37), scan())) == ((37, 50), at - len(first) + 1, False)
    else:
        assert found == ((37, 50), at, False)


@pytest.mark.parametrize("marker", sorted(FRAMES))
def test_the_frame_header_says_whether_more_scans_follow(marker):
    head = jpeg(frame(50, 37, 3, marker), end=b"")
    progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
    assert jpeg_frame(head) == ((37, 50), len(head), progressive)
    assert jpeg_frame(head + scan(3)) == ((37, 50), len(head), progressive)
    assert jpeg_frame(head + scan(2)) == ((37, 50), len(head), True)
    assert jpeg_frame(head + scan(1)[:5])[2]
    assert jpeg_frame(head + scan(1)[:4]) == ((37, 50), len(head), progressive)
    assert jpeg_frame(head + scan(1)[:3]) == ((37, 50), len(head) + 3, progressive)


def test_a_jpeg_without_a_frame_header_has_no_size():
    assert jpeg_frame(jpeg(scan(0), frame(50, 37))) == (None, 2, False)
    for length in range(4, 10):
        assert jpeg_frame(jpeg(frame(50, 37))[: 2 + length]) == (None, 2 + length, False)


def test_the_end_of_a_jpeg_is_behind_its_scan():
    thumbnail = segment(0xE1, jpeg(frame(5, 4), scan()))
    whole = jpeg(thumbnail, frame(50, 37), scan())
    assert safe_to_decode(whole) == whole
    with pytest.raises(ImageError, match="the JPEG is cut short; copy it again"):
        safe_to_decode(whole[:-2])
    bare = jpeg(scan()[:4], end=b"")
    assert safe_to_decode(bare + b"\xff\xd9")


@pytest.mark.parametrize(("first", "others", "fine"), [(0xC2, 100, True), (0xC2, 101, False), (0xC0, 101, True)])
def test_a_hundred_scans_are_allowed(first, others, fine):
    hidden = segment(0xE1, b"\xff\xda" * 50)  # of a thumbnail
    data = jpeg(hidden, frame(50, 37, marker=first), scan() * others)
    if fine:
        assert safe_to_decode(data) == data
    else:
        with pytest.raises(ImageError, match="the JPEG has more than 100 scans; save it again"):
            safe_to_decode(data)


WORDS = [chunk(kind, b"some words" * n) for n, kind in enumerate([b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"sPLT"])]
PIXELS = chunk(b"IDAT", b"pixels")


def test_a_png_goes_without_its_words_and_is_else_the_same():
    plain = png(chunk(b"gAMA", b"\0\0\0\1"), PIXELS, END)
    assert safe_to_decode(plain) == plain
    assert safe_to_decode(plain + b"behind") == plain + b"behind"
    words = png(*WORDS[:2], chunk(b"gAMA", b"\0\0\0\1"), WORDS[2], PIXELS, *WORDS[3:], END)
    assert safe_to_decode(words) == plain


@pytest.mark.parametrize("data", [png(PIXELS), png(PIXELS, END)[:-1], png(PIXELS, b"\0\0\0\x01IEND\0\0\0\0"), PNG])
def test_a_png_ends_with_its_last_chunk(data):
    with pytest.raises(ImageError, match="the PNG is cut short; copy it again"):
        safe_to_decode(data)


def test_a_png_without_a_size_has_no_frames():
    for width, height, fine in ((0, 0, True), (1, 0, False), (0, 1, False)):
        data = png(chunk(b"fcTL", struct.pack(">III", 0, width, height)), END).replace(b"IHDR", b"CgBI")
        if fine:
            assert safe_to_decode(data) == data
        else:
            with pytest.raises(ImageError, match="has a frame larger than the image"):
                safe_to_decode(data)


def test_only_so_many_chunks_are_read(monkeypatch):
    monkeypatch.setattr(header, "_MOST_CHUNKS", 3)
    assert safe_to_decode(png(PIXELS, END))
    with pytest.raises(ImageError, match="cut short"):
        safe_to_decode(png(PIXELS, PIXELS, END))


@pytest.mark.parametrize(
    ("content", "animated"),
    [((1, 5), False), ((2, 0), True), ((2,), True), ((256, 0), True), ((0, 0), False)],
)
def test_an_animated_png_of_one_frame_is_an_image(content, animated):
    data = png(chunk(b"acTL", struct.pack(f">{len(content)}I", *content)), PIXELS, END)
    if animated:
        with pytest.raises(ImageError, match="contains more than one image"):
            safe_to_decode(data)
    else:
        assert safe_to_decode(data) == data


def test_a_control_chunk_without_a_number_is_passed_over():
    for length, kind in ((3, b"acTL"), (11, b"fcTL")):
        data = png(chunk(kind, b"\x7f" * length), PIXELS, END)
        assert safe_to_decode(data) == data


@pytest.mark.parametrize(("width", "height", "fine"), [(50, 37, True), (51, 37, False), (50, 38, False), (1, 1, True)])
def test_a_frame_of_a_png_is_no_larger_than_the_image(width, height, fine):
    data = png(chunk(b"fcTL", struct.pack(">III", 99, width, height)), PIXELS, END)
    if fine:
        assert safe_to_decode(data) == data
    else:
        with pytest.raises(ImageError, match="has a frame larger than the image; replace the file"):
            safe_to_decode(data)


@pytest.mark.parametrize("colors", [None, 0, 1, 3, 7])
@pytest.mark.parametrize("shared", [None, 0, 2, 7])
def test_images_of_a_gif_are_found_between_palettes_and_extensions(shared, colors):
    parts = EXTENSION, gif_image(0, 0, 50, 37, colors), EXTENSION, gif_image(1, 2, 3, 4), gif_image(5, 6, 7, 8, colors)
    data = gif(*parts, colors=shared)
    assert list(_gif_images(data)) == [(0, 0, 50, 37), (1, 2, 3, 4), (5, 6, 7, 8)]
    assert list(_gif_images(data[: 13 + (0 if shared is None else 6 << shared)])) == []
    for length in range(len(data)):  # cut anywhere, it still ends
        assert len(list(_gif_images(data[:length]))) <= 3


@pytest.mark.parametrize(
    ("place", "fine"),
    [((0, 0, 50, 37), True), ((49, 36, 1, 1), True), ((1, 0, 50, 37), False), ((0, 1, 50, 37), False),
     ((0, 0, 51, 1), False), ((0, 0, 1, 38), False)],
)  # fmt: skip
def test_the_image_of_a_gif_is_inside_its_canvas(place, fine):
    data = gif(gif_image(*place))
    if fine:
        assert safe_to_decode(data) == data
    else:
        with pytest.raises(ImageError, match="has a frame that extends beyond the image; save it again"):
            safe_to_decode(data)


def test_a_gif_has_one_image():
    with pytest.raises(ImageError, match="contains more than one image"):
        safe_to_decode(gif(gif_image(0, 0, 5, 5), gif_image(0, 0, 5, 5)))


@pytest.mark.parametrize("between", [b"", b"odd", b"even"])
def test_an_animated_webp_of_one_frame_is_an_image(between):
    one = webp((b"VP8X", bytes(10)), (b"EXIF", between), (b"ANMF", b""))
    assert safe_to_decode(one) == one
    with pytest.raises(ImageError, match="contains more than one image"):
        safe_to_decode(webp((b"VP8X", bytes(10)), (b"ANMF", b"12345"), (b"EXIF", between), (b"ANMF", b"")))


def test_the_brands_of_an_avif_say_whether_it_moves():
    still = box(b"ftyp", b"avif\0\0\0\0avifmif1") + b"avis"
    assert safe_to_decode(still) == still
    for number in range(3):
        with pytest.raises(ImageError, match="contains more than one image"):
            safe_to_decode(box(b"ftyp", b"avif\0\0\0\0" + b"mif1" * number + b"avis"))
    with pytest.raises(ImageError, match="contains more than one image"):
        safe_to_decode(box(b"ftyp", b"avis\0\0\0\0avif"))
    for number, fine in ((244, False), (245, True)):  # only the first 256 bytes are searched
        data = box(b"ftyp", b"-" * number + b"avis")
        if fine:
            assert safe_to_decode(data) == data
        else:
            with pytest.raises(ImageError, match="contains more than one image"):
                safe_to_decode(data)


@pytest.mark.parametrize(
    ("data", "fine"),
    [
        (j2k(1024, 1, tile=(1, 1)), True),
        (j2k(1025, 1, tile=(1, 1)), False),
        (j2k(1, 1025, tile=(1, 1)), False),
        (j2k(2047, 1, tile=(2, 1)), True),
        (j2k(2049, 1, tile=(2, 1)), False),
        (j2k(1, 2047, tile=(1, 2)), True),
        (j2k(1, 2049, tile=(1, 2)), False),
        (j2k(1025, 4, tile=(1, 4)), True),  # 4100 pixels allow one more
        (j2k(1026, 4, tile=(1, 4)), False),
        (j2k(1025, 4, left=1024, tile=(1, 4)), False),
        (j2k(1025, 5, top=4, tile=(1, 5)), False),
    ],
)
def test_a_jpeg_2000_has_few_tiles(data, fine):
    for file in (data, SIGNATURE + box(b"jp2c", data)):
        if fine:
            assert safe_to_decode(file) == file
        else:
            with pytest.raises(ImageError, match="has too many tiles for its number of pixels; save it as PNG"):
                safe_to_decode(file)


def test_a_jpeg_2000_has_at_most_four_channels_and_no_empty_tiles():
    assert safe_to_decode(j2k(50, 37, components=4))
    with pytest.raises(ImageError, match=r"has 5 components, or empty tiles; save it as PNG"):
        safe_to_decode(j2k(50, 37, components=5))
    for tile in ((0, 1), (1, 0)):
        data = bytearray(j2k(50, 37))
        data[24:32] = struct.pack(">II", *tile)
        with pytest.raises(ImageError, match=r"has 3 components, or empty tiles; save it as PNG"):
            safe_to_decode(bytes(data))


@pytest.mark.parametrize(("columns", "fine"), [([3], True), ([4], True), ([5], False), ([3, 4], True), ([3, 5], False)])
def test_the_palette_of_a_jpeg_2000_has_at_most_four_channels(columns, fine):
    palettes = b"".join(box(b"pclr", struct.pack(">HB", 256, one)) for one in columns)
    data = SIGNATURE + box(b"jp2h", palettes) + box(b"jp2c", j2k(50, 37) + b"pclr\1\0\xff")  # the last are pixels
    if fine:
        assert safe_to_decode(data) == data
    else:
        with pytest.raises(ImageError, match=r"has a palette of 5 channels; save it as PNG"):
            safe_to_decode(data)


@pytest.mark.parametrize(("height", "width", "size"), [(96, 128, (48, 64)), (97, 128, None), (96, 129, None)])
def test_the_frames_of_an_avif_have_at_most_four_times_its_pixels(height, width, size):
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "AVIF", speed=10)
    data = bytearray(file.getvalue())
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 64, 48)
    assert stored_size(bytes(data)) == size


@pytest.mark.parametrize("place", [12, 252])
def test_the_brands_of_a_film_are_found_in_the_whole_box(place):
    length = place + 4
    brands = struct.pack(">I4s", length, b"ftyp") + b"avif" + bytes(length - 16) + b"avis"
    with pytest.raises(ImageError, match="contains more than one image"):
        safe_to_decode(brands)
    assert safe_to_decode(brands[:-4] + b"avif" + b"avis") == brands[:-4] + b"avif" + b"avis"  # behind the box
    first = struct.pack(">I4s", 16, b"ftyp") + b"avis" + bytes(4)
    with pytest.raises(ImageError, match="contains more than one image"):
        safe_to_decode(first)
