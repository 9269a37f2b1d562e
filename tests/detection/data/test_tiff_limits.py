"""Headers of a TIFF written byte by byte: where each value stands, and the exact limit of each check."""

import re
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

from detection.data.errors import ImageError
from detection.data.tiff import Page, _Fields, first_page, tiff_size
from detection.data.tiff_pixels import _check, _divided, _without_ink, tiff_colours, tiff_samples

SHORT, LONG, LONG8 = 3, 4, 16
CODES = {SHORT: "H", LONG: "I", LONG8: "Q"}
ORDERS = [("<", False), (">", False), ("<", True), (">", True)]

Field = tuple[int, int, list[int] | bytes]


def tiff(*pages: list[Field], order: str = "<", big: bool = False, start: bytes = b"") -> bytes:
    """A TIFF whose first bytes behind the header are ``start``, such as the pixels."""
    offset, number, entry, room = ("Q", "Q", "HHQ", 8) if big else ("I", "H", "HHI", 4)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HH", 8, 0) if big else b""
    at = len(head) + room + len(start)
    found = head + struct.pack(order + offset, at) + start
    for k, fields in enumerate(pages, start=1):
        end = at + struct.calcsize(order + number) + len(fields) * (struct.calcsize(order + entry) + room) + room
        entries, rest = b"", b""
        for tag, kind, values in fields:
            packed = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{CODES[kind]}", *values)
            entries += struct.pack(order + entry, tag, kind, len(values))
            if len(packed) > room:
                entries, rest = entries + struct.pack(order + offset, end + len(rest)), rest + packed
            else:
                entries += packed.ljust(room, b"\0")
        at = end + len(rest)
        following = struct.pack(order + offset, at if k < len(pages) else 0)
        found += struct.pack(order + number, len(fields)) + entries + following + rest
    return found


def fields(width: int = 50, height: int = 40, **others: int | list[int]) -> list[Field]:
    """A gray page; others as ``t278=10`` for tag 278."""
    own = {"t256": width, "t257": height, "t262": 1, "t273": 8, "t279": 5} | others
    return [(int(tag[1:]), LONG, v if isinstance(v, list) else [v]) for tag, v in own.items()]


def page(**changes) -> Page:
    return replace(first_page(tiff(fields()), 2000), **changes)


@pytest.mark.parametrize(("order", "big"), ORDERS)
def test_each_field_has_its_value(order, big):
    data = tiff(
        [
            (256, LONG, [50]), (257, LONG, [40]), (258, SHORT, [16] * 4), (259, SHORT, [5]), (262, SHORT, [2]),
            (266, SHORT, [2]), (273, LONG, [*range(16)]), (274, SHORT, [6]), (277, SHORT, [4]), (278, LONG, [10]),
            (279, SHORT, [*range(16, 32)]), (284, SHORT, [2]), (292, LONG, [5]), (293, LONG, [6]), (317, SHORT, [7]),
            (320, SHORT, [11, 12, 13]), (332, SHORT, [8]), (338, SHORT, [9]), (339, SHORT, [3] * 4),
            (32997, LONG, [1]), (32998, LONG, [1]),
        ], order=order, big=big,
    )  # fmt: skip
    found = first_page(data, 2000)
    assert struct.unpack_from(order + "H", data, found.orientation_at)[0] == 6
    assert replace(found, orientation_at=None) == Page(
        order, 50, 40, bits=16, samples=4, photometric=2, compression=5, apart=True, floats=3, extra=(9,), predictor=7,
        fill=2, fax={292: 5, 293: 6}, inks=8, colours=(11, 12, 13), orientation=6, orientation_at=None, tiled=False,
        segment=(10, 50), offsets=tuple(range(16)), counts=tuple(range(16, 32)),
    )  # fmt: skip
    assert tiff_size(data) == (40, 50)


@pytest.mark.parametrize(("order", "big"), ORDERS)
def test_a_header_may_leave_out_most_fields(order, big):
    found = first_page(tiff(fields(), order=order, big=big), 2000)
    assert found == Page(
        order, 50, 40, bits=1, samples=1, photometric=1, compression=1, apart=False, floats=1, extra=(), predictor=1,
        fill=1, fax={}, inks=1, colours=(), orientation=1, orientation_at=None, tiled=False, segment=(40, 50),
        offsets=(8,), counts=(5,),
    )  # fmt: skip


def test_tiles_have_their_own_fields():
    numbers = [*range(8)]
    own = {"t322": 16, "t323": 32, "t324": numbers, "t325": [n + 1 for n in numbers]}
    found = first_page(tiff(fields(**own)), 2000)
    assert (found.tiled, found.segment) == (True, (32, 16))
    assert (found.offsets, found.counts) == (tuple(numbers), tuple(n + 1 for n in numbers))


@pytest.mark.parametrize(("rows", "used"), [(0, 40), (1, 1), (39, 39), (40, 40), (41, 40), (2**32 - 1, 40)])
def test_a_strip_has_at_most_all_rows(rows, used):
    needed = -(-40 // used)
    found = first_page(tiff(fields(t278=rows, t273=[8] * needed, t279=[5] * needed)), 2000)
    assert found.segment == (used, 50)


@pytest.mark.parametrize(("given", "used"), [(0, 1), (1, 1), (8, 8), (9, 1)])
def test_an_unknown_orientation_is_none(given, used):
    assert first_page(tiff(fields(t274=given)), 2000).orientation == used


@pytest.mark.parametrize(("planar", "samples", "apart"), [(1, 3, False), (2, 1, False), (2, 2, True)])
def test_planes_are_apart_only_if_there_are_several(planar, samples, apart):
    needed = samples if apart else 1
    own = {"t284": planar, "t277": samples, "t273": [8] * needed, "t279": [5] * needed}
    assert first_page(tiff(fields(**own)), 2000).apart is apart


def told(data: bytes, max_pixels: int = 2000) -> str:
    """The error of a file, or an empty text."""
    try:
        first_page(data, max_pixels)
    except ImageError as error:
        return str(error)
    return ""


def test_the_limit_of_pixels():
    assert told(tiff(fields()), 2000) == ""
    assert told(tiff(fields()), 1999) == (
        "claims 50 x 40 pixels, more than 1999; scale it down, or raise data.max_pixels"
    )


@pytest.mark.parametrize(
    ("samples", "bits", "fine"),
    [(1, 1, True), (65535, 64, True), (0, 8, False), (65536, 8, False), (1, 0, False), (1, 65, False)],
)
def test_the_limits_of_samples_and_bits(samples, bits, fine):
    expected = f"its header is broken (samples: {samples}, bits: {bits}); replace the file"
    assert told(tiff(fields(t277=samples, t258=bits))) == ("" if fine else expected)


@pytest.mark.parametrize("tag", ["t32997", "t32998"])
def test_a_volume_has_a_depth_of_more_than_one(tag):
    assert "contains a volume" in told(tiff(fields(**{tag: 2})))
    assert "contains a volume" in told(tiff(fields(**{tag: 0})))


@pytest.mark.parametrize(
    ("height", "width", "max_pixels", "fine"),
    [
        (1024, 1024, 2000, True),  # 2**20 pixels are always allowed
        (1025, 1024, 2000, False),
        (1024, 1025, 2000, False),
        (1024, 2048, 1 << 21, True),
        (1024, 2049, 1 << 21, False),
        (1, 1, 2000, True),
    ],
)
def test_the_limit_of_tiles(height, width, max_pixels, fine):
    needed = -(-40 // height) * -(-50 // width)
    data = tiff(fields(t322=width, t323=height, t324=[8] * needed, t325=[1] * needed))
    expected = f"claims tiles of {width} x {height} pixels, together more than {max_pixels}; save it with smaller tiles"
    assert told(data, max_pixels).startswith(expected) != fine
    assert bool(told(data, max_pixels)) != fine


def test_tiles_at_the_border_count_whole():
    ragged = fields(1025, 512, t322=1024, t323=512, t324=[8] * 2, t325=[1] * 2)  # two tiles of 2**19 pixels
    assert told(tiff(ragged), 600_000) == ""
    ragged = fields(1024, 513, t322=1024, t323=512, t324=[8] * 2, t325=[1] * 2)
    assert told(tiff(ragged), 600_000) == ""
    ragged = fields(1025, 513, t322=1024, t323=512, t324=[8] * 4, t325=[1] * 4)
    assert "claims tiles of 1024 x 512 pixels" in told(tiff(ragged), 600_000)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"t278": 20, "t273": [8] * 2, "t279": [1] * 2}, ""),
        ({"t278": 20}, "1 offset, 1 length, but the image needs 2 of each"),
        ({"t278": 20, "t273": [8] * 2}, "2 offsets, 1 length, but the image needs 2 of each"),
        ({"t278": 20, "t273": [8] * 2, "t279": []}, "2 offsets, 0 lengths, but the image needs 2 of each"),
        ({"t279": []}, ""),  # one strip may go without its length
        ({"t279": [], "t259": 5}, "1 offset, 0 lengths, but the image needs 1 of each"),
        ({"t273": [8] * 2, "t279": []}, "2 offsets, 0 lengths, but the image needs 1 of each"),
        ({"t284": 2, "t277": 3}, "1 offset, 1 length, but the image needs 3 of each"),
        ({"t322": 25, "t323": 20, "t324": 8, "t325": 1}, "1 offset, 1 length, but the image needs 4 of each"),
    ],
)
def test_the_number_of_strips(own, message):
    found = told(tiff(fields(**own)))
    assert found == (f"its header is broken (strips or tiles: {message}); replace the file" if message else "")


def test_a_strip_ends_inside_the_file():
    whole = len(tiff(fields()))
    assert told(tiff(fields(t273=whole - 5))) == ""
    assert told(tiff(fields(t273=whole - 4))) == "is cut short; copy it again"


SMALL = {"width": 25, "height": 20}


@pytest.mark.parametrize(
    ("second", "counts"),
    [
        ({}, True),
        ({"width": 25, "height": 18}, False),  # a level of a pyramid: the sides shrink alike, up to two rows
        ({"width": 25, "height": 22}, False),
        ({"width": 25, "height": 17}, True),
        ({"width": 25, "height": 23}, True),
        ({"width": 49, "height": 40}, False),
        ({"width": 51, "height": 40}, True),
        ({"t254": 1}, False),  # a smaller version, or a mask
        ({"t254": 4}, False),
        ({"t254": 2}, True),
        ({"t254": 8}, True),
        ({"t255": 2}, False),
        ({"t255": 1}, True),
        ({"t255": 3}, True),
    ],
)
def test_what_counts_as_another_image(second, counts):
    expected = "contains 2 images, and only the first could be used; save each page as an image"
    assert told(tiff(fields(), fields(**second))).startswith(expected) == counts
    both = tiff(fields(), fields(t254=1), fields(**second), fields())
    assert told(both).startswith(f"contains {3 if counts else 2} images")


def described(text: bytes, *more: list[Field]) -> bytes:
    return tiff([*fields(), (270, 2, text)], *more)


@pytest.mark.parametrize(
    ("text", "images"),
    [
        (b"ImageJ=1.5\nimages=3\n", 3), (b"ImageJ=1.5\nimages=2", 2), (b"ImageJ=1.5\nimages=1\n", 1),
        (b"ImageJ=1.5\nimages=0\n", 1), (b"OtherJ=1.5\nimages=3\n", 1), (b"ImageJ=1.5\nslices=3\n", 1), (b"abc", 1),
    ],
)  # fmt: skip
def test_a_stack_of_imagej_has_one_header(text, images):
    assert told(described(text)).startswith(f"contains {images} images") == (images > 1)
    assert told(described(text, fields(t254=1))) == ""  # with further headers, those count


def test_the_first_4096_characters_tell_of_a_stack():
    for length, images in ((4096, 12), (4097, 1)):
        text = b"ImageJ=1.5\n" + b"x" * (length - 21) + b"\nimages=12"
        assert len(text) == length
        assert told(described(text)).startswith("contains 12 images") == (images > 1)


@pytest.mark.parametrize(("order", "big"), ORDERS)
def test_the_start_of_a_header(order, big):
    data = tiff(fields(), order=order, big=big)
    for length in (16, 8) if big else (8, 4):
        with pytest.raises(ImageError, match="cut short; copy it again"):
            tiff_size(data[: length - 1])
    if big:
        for sizes in ((8, 1), (4, 0)):
            with pytest.raises(ImageError, match="its header is broken; replace the file"):
                tiff_size(data[:4] + struct.pack(order + "HH", *sizes) + data[8:])


def test_the_limit_of_fields():
    most = [*fields(), *((1000 + k, SHORT, [k]) for k in range(4091))]
    assert tiff_size(tiff(most)) == (40, 50)
    with pytest.raises(ImageError, match=r"its header is broken \(4097 fields\); replace the file"):
        tiff_size(tiff([*most, (9999, SHORT, [1])]))


def test_a_file_may_end_behind_its_last_field():
    data = tiff(fields())
    for missing in range(5):
        assert tiff_size(data[: len(data) - missing]) == (40, 50)
    assert told(data[:-5]) == "its header is cut short; copy it again"


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("kind", [SHORT, LONG, LONG8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_few_values_stand_in_the_field_and_many_behind_it(order, kind, number):
    values = [*range(11, 11 + number)]
    for big in (True,) if kind == LONG8 else (False, True):
        data = tiff([*fields(), (320, kind, values)], order=order, big=big)
        assert first_page(data, 2000).colours == tuple(values)


@pytest.mark.parametrize("kind", [1, 2, 7])
@pytest.mark.parametrize("length", [4, 5])
def test_bytes_stand_in_the_field_up_to_four(kind, length):
    text = bytes(range(1, 1 + length))
    data = tiff([(270, kind, text)])
    assert _Fields(data, 8).places[270] == (kind, length, data.index(text))


@pytest.mark.parametrize("length", [2, 2**31, 2**32 - 1])
def test_a_field_longer_than_the_file_is_rejected_without_memory(length):
    data = bytearray(tiff([(256, LONG, [50]), (257, LONG, [40])]))
    data[10 + 4 : 10 + 12] = struct.pack("<II", length, len(data) - 4)
    tracemalloc.start()
    with pytest.raises(ImageError, match="its header is cut short; copy it again"):
        tiff_size(bytes(data))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("length", [2**61, 2**63, 2**64 - 1])
def test_no_length_is_too_large_to_be_rejected(length):
    data = bytearray(tiff([(256, LONG, [50]), (257, LONG, [40])], big=True))
    data[24 + 4 : 24 + 12] = struct.pack("<Q", length)
    with pytest.raises(ImageError, match="its header is cut short; copy it again"):
        tiff_size(bytes(data))


def test_a_field_of_another_type_or_number_is_named():
    broken = "its header is broken ({}); replace the file"
    height = (257, LONG, [40])
    assert told(tiff([(256, 5, b"\0" * 8), height])) == broken.format("ImageWidth has type 5")
    assert told(tiff([(256, LONG, []), height])) == broken.format("ImageWidth has 0 values instead of 1")
    assert told(tiff(fields(t277=[]))) == broken.format("SamplesPerPixel has 0 values instead of 1")
    assert told(tiff([height])) == broken.format("ImageWidth has 0 values instead of 1")
    assert told(tiff(fields(t258=[8, 8, 16]))) == (
        "has a different BitsPerSample per sample; save it with the same value for all"
    )
    assert told(tiff(fields(t256=[0]))) == broken.format("it claims 0 x 40 pixels")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 32}, "has pixels of 32 bits (numbers); save it with 8 or 16 bits per channel, unsigned"),
        ({"bits": 3}, "has pixels of 3 bits (numbers);"),
        ({"bits": 8, "floats": 2}, "has pixels of 8 bits (signed integers);"),
        ({"bits": 16, "floats": 3}, "has pixels of 16 bits (floats);"),
        ({"bits": 1, "floats": 4}, "has pixels of 1 bit (numbers);"),
        ({"bits": 8, "compression": 7, "photometric": 8}, "has an unsupported compression (code 7);"),
        ({"bits": 16, "compression": 7}, "has an unsupported compression (code 7);"),
        ({"bits": 8, "compression": 4}, "has an unsupported compression (code 4);"),
        ({"samples": 2, "compression": 4}, "has an unsupported compression (code 4);"),
        ({"bits": 8, "samples": 1, "photometric": 6}, "has an unsupported form of YCbCr colors; save it as RGB"),
        ({"bits": 16, "samples": 3, "photometric": 6}, "has an unsupported form of YCbCr colors"),
        ({"bits": 8, "samples": 3, "photometric": 6, "apart": True}, "has an unsupported form of YCbCr colors"),
        ({"bits": 8, "predictor": 3}, "has the unsupported predictor 3; save it without a predictor"),
        ({"bits": 8, "predictor": 0}, "has the unsupported predictor 0;"),
        ({"bits": 4, "predictor": 2}, "has the unsupported predictor 2;"),
    ],
)
def test_pixels_that_are_not_supported_are_named(changes, message):
    with pytest.raises(ImageError, match=re.escape(message)):
        _check(page(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        *({"bits": bits} for bits in (1, 2, 4, 8, 16)),
        {"bits": 8, "predictor": 2},
        {"bits": 16, "predictor": 2},
        {"bits": 8, "samples": 3, "photometric": 6},
        {"bits": 8, "samples": 3, "photometric": 6, "apart": True, "compression": 7},
        *({"bits": 8, "photometric": color, "compression": 7} for color in (0, 1, 2, 3, 5)),
    ],
)
def test_supported_pixels(changes):
    _check(page(**changes))


def test_supported_compressions():
    """By the codes of TIFF 6.0 and of libtiff."""
    supported = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000}
    for code in {near for one in (*supported, 7) for near in (one - 1, one, one + 1)}:
        if code in supported:
            _check(page(compression=code))
        else:
            with pytest.raises(ImageError, match=rf"has an unsupported compression \(code {code}\)"):
                _check(page(compression=code))


def stored(image: np.ndarray, compression: int = 1, rows: int | None = None, **own: int | list[int]) -> tuple:
    """(data, page) of an image (H, W, samples) in strips, gray unless told."""
    height, width, samples = image.shape
    rows = rows or height
    strips = [image[top : top + rows].tobytes() for top in range(0, height, rows)]
    strips = [zlib.compress(part) if compression == 8 else part for part in strips]
    ends = np.cumsum([8, *map(len, strips)]).tolist()
    given = {
        "t258": 8 * image.itemsize, "t259": compression, "t277": samples, "t278": rows, "t273": ends[:-1],
        "t279": [len(part) for part in strips],
    }  # fmt: skip
    data = tiff(fields(width, height, **given | own), start=b"".join(strips))
    return data, first_page(data, image.size)


def test_long_rows_and_far_strips_are_decompressed():
    image = np.random.default_rng(0).integers(0, 256, (3, 70_000, 1)).astype(np.uint8)
    assert np.array_equal(tiff_samples(*stored(image, 8, rows=1)), image)


@pytest.mark.parametrize(("photometric", "samples", "extra"), [(5, 4, []), (2, 4, [1])])
def test_many_rows_are_converted_in_parts(photometric, samples, extra):
    image = np.random.default_rng(0).integers(0, 256, (515, 3, samples)).astype(np.uint8)
    found = tiff_colours(*stored(image, t262=photometric, t338=extra))
    assert np.array_equal(found, (_divided if extra else _without_ink)(image))


def test_ink_is_rounded():
    """(255 - ink) * (255 - black) / 255, to the nearest."""
    inks = np.array([[[0, 255, 100, 0], [0, 255, 100, 255], [127, 128, 54, 128]]], np.uint8)
    exact = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.array_equal(_without_ink(inks), np.round(exact))
    deep = inks.astype(np.uint16) * 257
    assert np.abs(_without_ink(deep) - exact * 257).max() <= 0.5


def test_other_inks_and_colors_are_rejected():
    image = np.zeros((4, 5, 4), np.uint8)
    assert tiff_colours(*stored(image, t262=5, t332=1)).shape == (4, 5, 3)
    with pytest.raises(ImageError, match=r"has an unsupported color space \(photometric 5\); save it as RGB"):
        tiff_colours(*stored(image, t262=5, t332=2))
    with pytest.raises(ImageError, match=r"\(1 sample per pixel, but its color space needs 3\)"):
        tiff_colours(*stored(image[..., :1], t262=2))
    with pytest.raises(ImageError, match=r"\(3 samples per pixel, but its color space needs 4\)"):
        tiff_colours(*stored(image[..., :3], t262=5))


@pytest.mark.parametrize(
    ("photometric", "samples", "extra", "channels"),
    [
        (1, 1, [], 1), (1, 2, [2], 1), (1, 2, [1], 1), (1, 2, [0], None), (1, 2, [], None), (1, 3, [2, 2], None),
        (2, 3, [], 3), (2, 4, [], 3), (2, 4, [0], 3), (2, 4, [2], 3), (2, 5, [0, 0], None), (2, 3, [1], 3),
    ],
)  # fmt: skip
def test_bands_without_a_meaning_are_no_colors(photometric, samples, extra, channels):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, samples)).astype(np.uint8)
    found = tiff_colours(*stored(image, t262=photometric, t338=extra))
    assert (found is None) if channels is None else found.shape == (4, 5, channels)
    if extra != [1] or samples == 3:
        assert found is None or np.array_equal(found, image[..., :channels])


def test_a_palette_has_a_color_for_each_value():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    palette = np.random.default_rng(0).integers(0, 65536, (3, 256))
    found = tiff_colours(*stored(image, t262=3, t320=palette.flatten().tolist()))
    assert np.array_equal(found, (palette.T // 256)[image[..., 0]])
    for number in (255, 257):
        with pytest.raises(ImageError, match=rf"has a palette of {number} colors for 8 bits; save it as RGB"):
            tiff_colours(*stored(image, t262=3, t320=[0] * 3 * number))
    with pytest.raises(ImageError, match=r"has a palette of 1 color for 16 bits; save it as RGB"):
        tiff_colours(*stored(image.astype(np.uint16), t262=3, t320=[0] * 3))


def test_a_strip_may_have_too_many_bytes_but_not_too_few():
    image = np.arange(40, dtype=np.uint8).reshape(8, 5, 1)
    data, header = stored(image, rows=3)
    longer = replace(header, counts=tuple(count + 1 for count in header.counts))
    assert np.array_equal(tiff_samples(data, longer), image)
    assert np.array_equal(tiff_samples(*stored(image, t279=[])), image)
    for k in range(3):
        shorter = replace(header, counts=tuple(count - (n == k) for n, count in enumerate(header.counts)))
        with pytest.raises(ImageError, match="is cut short; copy it again"):
            tiff_samples(data, shorter)


def test_damaged_strips_cannot_be_decoded():
    data, header = stored(np.zeros((8, 5, 1), np.uint8), 8)
    data = data[:8] + bytes(header.counts[0]) + data[8 + header.counts[0] :]
    with pytest.raises(ImageError, match=r"cannot be decoded \(.{3,80}\); replace it, or save it as PNG"):
        tiff_samples(data, header)


def test_a_file_that_ends_behind_its_fields_has_one_page():
    data = tiff(fields())
    number = struct.unpack_from("<H", data, 8)[0]
    end = 8 + 2 + 12 * number
    for length in range(4):
        assert _Fields(data[: end + length], 8).next == 0
    assert _Fields(data[:end] + struct.pack("<I", 77), 8).next == 77
