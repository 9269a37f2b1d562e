import io
import random
import struct
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from detection.data import avif as reader
from detection.data import header
from detection.data.avif import Frame, avif_frames
from detection.data.errors import ImageError
from detection.data.header import stored_size

HEIGHT, WIDTH = 37, 50


def avif(channels: int = 3, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, channels)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "AVIF", **options)
    return file.getvalue()


def moving() -> bytes:
    """Its header has all fields, as frames may have other sizes."""
    others = [Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))]
    return avif(save_all=True, append_images=others, duration=100)


@pytest.mark.parametrize("options", [{}, {"subsampling": "4:4:4"}, {"quality": 100}, {"speed": 10}])
def test_the_frame_has_the_size_of_the_image(options):
    assert avif_frames(avif(**options)) == [Frame(WIDTH, HEIGHT, WIDTH * HEIGHT)]


def test_opacity_is_a_frame_of_its_own():
    assert avif_frames(avif(4)) == [Frame(WIDTH, HEIGHT, WIDTH * HEIGHT)] * 2
    assert stored_size(avif(4)) == (HEIGHT, WIDTH)


def test_the_frames_of_a_film_may_have_any_size_of_as_many_bits():
    assert avif_frames(moving()) == [Frame(WIDTH, HEIGHT, 64 * 64)]


def patched(data: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(marker) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(("height", "width"), [(18, 50), (8, 8), (1, 1)])
def test_frames_much_larger_than_the_image_leave_it_without_a_size(height, width):
    data = patched(avif(), b"ispe", 8, struct.pack(">II", width, height))
    assert stored_size(data) == ((height, width) if 4 * height * width >= HEIGHT * WIDTH else None)


def test_a_header_that_allows_frames_of_65536_pixels_is_no_size():
    data = bytearray(moving())
    at = data.rindex(b"\x0a", 0, data.index(b"mdat") + 20)  # the sequence header of the first image
    bits = int.from_bytes(data[at + 2 : at + 12], "big")
    text = f"{bits:080b}"
    place = text.index(f"{5:04b}{5:04b}{WIDTH - 1:06b}{HEIGHT - 1:06b}")
    text = text[:place] + "1111" * 2 + text[place + 8 :]
    data[at + 2 : at + 12] = int(text, 2).to_bytes(10, "big")
    assert avif_frames(bytes(data))[0].largest == 65536 * 65536
    assert stored_size(bytes(data)) is None


def test_any_damage_has_frames_or_one_error():
    for kind in (avif(), avif(4), moving()):
        for seed in range(400):
            chance = random.Random(seed)
            data = bytearray(kind)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(min(len(data), 700))] = chance.randrange(256)
            with suppress(ImageError):
                avif_frames(bytes(data[: chance.randint(0, len(data))] if seed % 3 == 0 else data))


@pytest.mark.parametrize("kind", [b"iloc", b"iinf", b"meta"])
def test_without_its_lists_an_image_has_no_size(kind):
    data = patched(avif(), kind, 0, b"free")
    with pytest.raises(ImageError, match="its header is broken"):
        avif_frames(data)
    assert stored_size(data) is None


def sequence_header(width: int, height: int, timing: bool, model: bool, delays: bool, levels: tuple[int, ...]) -> bytes:
    """A sequence header of AV1 with the fields that a film has (section 5.5 of its specification)."""
    text = "000" + "0" + "0"  # profile, no still picture, no reduced header
    text += f"{timing:b}"
    if timing:
        text += f"{1:032b}{30:032b}" + "1" + "00101"  # a tick, the scale, equal intervals, 4 ticks
        text += f"{model:b}"
        if model:
            text += f"{9:05b}{1:032b}{7:05b}{7:05b}"  # delays of 10 bits
    text += f"{delays:b}{len(levels) - 1:05b}"
    for level in levels:
        text += f"{0:012b}{level:05b}" + ("1" if level > 7 else "")
        if timing and model:
            text += "1" + "01" * 10 + "1"
        if delays:
            text += "1" + "1010"
    bits = max(width, height).bit_length()
    text += f"{bits - 1:04b}" * 2 + f"{width - 1:0{bits}b}{height - 1:0{bits}b}"
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


@pytest.mark.parametrize("levels", [(4,), (8,), (7, 9, 12)])
@pytest.mark.parametrize(("timing", "model", "delays"), [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1), (1, 1, 1)])
@pytest.mark.parametrize(("width", "height"), [(640, 360), (1, 1), (65535, 3)])
def test_every_form_of_header_gives_its_size(width, height, timing, model, delays, levels):
    content = sequence_header(width, height, bool(timing), bool(model), bool(delays), levels)
    stream = b"\x12\x00\x0a" + bytes([len(content)]) + content  # a delimiter first
    (frame,) = reader._sequence_headers(stream)
    bits = max(width, height).bit_length()
    assert frame == Frame(width, height, 1 << 2 * bits)
    cut = content[:-2]
    with pytest.raises(IndexError):
        list(reader._sequence_headers(b"\x0a" + bytes([len(cut)]) + cut))


def test_the_last_part_of_a_stream_may_go_without_its_length():
    content = sequence_header(640, 360, False, False, False, (4,))
    assert [one.width for one in reader._sequence_headers(b"\x12\x00\x08" + content)] == [640]
    assert [one.width for one in reader._sequence_headers(b"\x0e\x00" + bytes([len(content)]) + content)] == [640]


def test_a_length_may_take_several_bytes():
    content = sequence_header(640, 360, False, False, False, (4,)) + bytes(300)
    length = bytes([0x80 | len(content) & 127, len(content) >> 7])
    first = b"\x2a" + length + bytes(len(content))  # of another kind
    assert [one.height for one in reader._sequence_headers(first + b"\x0a" + length + content)] == [360]
    with pytest.raises(IndexError):
        list(reader._sequence_headers(b"\x0a" + b"\xff" * 9))


def test_items_may_lie_in_the_box_of_data_or_in_parts():
    """Method 1 of the list counts from the box idat; an item in two parts is joined."""
    whole = avif_bytes()
    at, length = payload(whole)
    content = whole[at : at + length]
    frames = [Frame(WIDTH, HEIGHT, WIDTH * HEIGHT)]
    for version, parts in ((0, [(at, 4), (at + 4, length - 4)]), (1, [(0, length)]), (2, [(0, 7), (7, length - 7)])):
        data = rebuilt(whole, version, parts, b"" if version == 0 else content)
        assert avif_frames(data) == frames


def avif_bytes() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(file, "AVIF")
    return file.getvalue()


def payload(data: bytes) -> tuple[int, int]:
    """Where the item's bytes are, by the box of media data."""
    at = data.index(b"mdat")
    return at + 4, struct.unpack_from(">I", data, at - 4)[0] - 8


def rebuilt(data: bytes, version: int, parts: list[tuple[int, int]], inside: bytes) -> bytes:
    """The file with other lists of items, behind all that it held."""
    numbers = ">H" if version < 2 else ">I"
    content = bytes([version, 0, 0, 0, 0x48, 0x40]) + struct.pack(numbers, 1) + struct.pack(numbers, 1)
    content += (b"\0\1" if version else b"") + b"\0\0" + struct.pack(">I", 0) + struct.pack(">H", len(parts))
    content += b"".join(struct.pack(">IQ", *part) for part in parts)

    def box(kind: bytes, inner: bytes) -> bytes:
        return struct.pack(">I", 8 + len(inner)) + kind + inner

    infe = box(b"infe", b"\2\0\0\0\0\1\0\0av01\0") if version < 2 else box(b"infe", b"\3\0\0\0\0\0\0\1\0\0av01\0")
    iinf = box(b"iinf", b"\0\0\0\0\0\1" + infe)
    lists = box(b"iloc", content) + iinf + (box(b"idat", inside) if inside else b"")
    at = data.index(b"meta")  # becomes free space
    return data[:at] + b"free" + data[at + 4 :] + box(b"meta", bytes(4) + lists)


@pytest.mark.parametrize("size", range(9))
def test_a_box_needs_eight_bytes_before_the_end(size):
    """Those behind the end belong to another box."""
    data = struct.pack(">I4s", 8, b"free") * 2
    assert list(reader._boxes(data, 0, size)) == ([(b"free", 8, 8)] if size == 8 else [])


@pytest.mark.parametrize(("times", "known"), [(4, True), (4.01, False)])
def test_the_fields_of_a_size_may_use_two_spare_bits(monkeypatch, times, known):
    """Frames that may be over four times as large as the sequence says are not trusted."""
    frame = Frame(WIDTH, HEIGHT, int(times * WIDTH * HEIGHT))
    monkeypatch.setattr(header, "avif_frames", lambda data: [frame])
    assert header._avif_size(avif_bytes()) == ((HEIGHT, WIDTH) if known else None)


def test_a_length_of_1_stands_for_one_of_eight_bytes():
    content = b"12345"
    data = struct.pack(">I4sQ", 1, b"long", 16 + len(content)) + content + struct.pack(">I4s", 8, b"next")
    assert list(reader._boxes(data, 0, len(data))) == [(b"long", 16, 21), (b"next", 29, 29)]


def test_a_length_of_2_is_no_valid_one():
    with pytest.raises(ImageError, match="no valid length"):
        list(reader._boxes(struct.pack(">I4sQ", 2, b"bad ", 16), 0, 16))


def item_locations(version: int, sizes: tuple[int, int, int, int], items: list) -> bytes:
    """An iloc box (ISO 14496-12, section 8.11.3) of items (ID, method, base, [(index, start, length) ...])."""
    start, length, base, index = sizes
    wide = 4 if version == 2 else 2
    data = bytes([version, 0, 0, 0, start << 4 | length, base << 4 | index]) + len(items).to_bytes(wide, "big")
    for number, method, begin, extents in items:
        data += number.to_bytes(wide, "big") + (method.to_bytes(2, "big") if version else b"")
        data += b"\xff\xff" + begin.to_bytes(base, "big") + len(extents).to_bytes(2, "big")
        for place, first, many in extents:
            data += place.to_bytes(index, "big") if version and index else b""
            data += first.to_bytes(start, "big") + many.to_bytes(length, "big")
    return data


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("sizes", [(4, 8, 4, 8), (8, 4, 8, 4), (4, 4, 0, 0)])
def test_places_of_items_are_read_in_every_version(version, sizes):
    items = [
        (3, 0xFFF1, 5 if sizes[2] else 0, [(7, 2**31 + 3, 17), (8, 40, 2**31)]),
        (2, 0, 0, []),
        (9, 2, 0, [(1, 1, 2)]),
    ]
    data = item_locations(version, sizes, items)
    found = list(reader._places(b"\xff" * 3 + data + b"\xff", 3, 3 + len(data)))
    assert found == [
        (number, method & 15 if version else 0, [(base + start, length) for _, start, length in extents])
        for number, method, base, extents in items
    ]
    with pytest.raises(IndexError):
        list(reader._places(b"\xff" * 3 + data + b"\xff", 3, 2 + len(data)))


def test_the_number_of_items_has_a_limit():
    count = struct.pack(">H", reader._MOST_ITEMS + 1)
    with pytest.raises(ImageError, match=f"more than {reader._MOST_ITEMS} items"):
        next(reader._places(bytes([0, 0, 0, 0, 0x44, 0]) + count + bytes(100), 0, 108))


def box(kind: bytes, content: bytes, form: str = "short") -> bytes:
    if form == "long":
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 0 if form == "last" else 8 + len(content), kind) + content


def test_boxes_have_a_length_in_four_or_eight_bytes_or_end_with_the_file():
    data = box(b"free", b"") + box(b"mdat", b"abc", "long") + box(b"meta", b"de") + box(b"idat", b"fghi", "last")
    kinds = [(b"free", b""), (b"mdat", b"abc"), (b"meta", b"de"), (b"idat", b"fghi")]
    assert [(kind, data[begin:end]) for kind, begin, end in reader._boxes(data, 0, len(data))] == kinds
    assert [kind for kind, _, _ in reader._boxes(data, 8, len(data))] == [b"mdat", b"meta", b"idat"]
    assert [kind for kind, _, _ in reader._boxes(data, 0, 7)] == []
    assert [kind for kind, _, _ in reader._boxes(data, 0, 8)] == [b"free"]
    beyond = struct.pack(">I4s", 99, b"mdat") + b"ab"
    assert list(reader._boxes(beyond, 0, 10)) == [(b"mdat", 8, 10)]
    for short in (struct.pack(">I4s", 7, b"free"), struct.pack(">I4sQ", 1, b"free", 15)):
        with pytest.raises(ImageError, match="no valid length"):
            list(reader._boxes(short + bytes(20), 0, 36))


def item(number: int, kind: bytes = b"av01", version: int = 2) -> bytes:
    wide = 2 if version == 2 else 4
    return box(b"infe", bytes([version, 0, 0, 0]) + number.to_bytes(wide, "big") + b"\0\0" + kind)


@pytest.mark.parametrize("version", [0, 1])
def test_the_items_of_av1_are_put_together_from_their_places(version):
    entries = item(1) + item(2, b"Exif") + item(3) + item(70_000, version=3) + box(b"skip", bytes(12) + b"av01")
    count = (5).to_bytes(2 if version == 0 else 4, "big")
    lists = box(b"iinf", bytes([version, 0, 0, 0]) + count + entries) + box(b"idat", b"klmnop")

    def file(start: int) -> bytes:
        places = [
            (1, 0, start, [(0, 0, 2), (0, 4, 3)]),
            (2, 0, start, [(0, 0, 1)]),
            (3, 1, 0, [(0, 2, 3)]),
            (70_000, 0, start, [(0, 7, 0)]),  # no length: to the end of the file
        ]
        return box(b"meta", bytes(4) + lists + box(b"iloc", item_locations(2, (4, 4, 4, 0), places)))

    start = len(file(0)) + 8
    data = file(start) + box(b"mdat", b"abcdefghij")
    assert list(reader._av1_items(data)) == [b"abefg", b"mno", b"hij"]
    with pytest.raises(ImageError, match="exactly one meta box"):
        list(reader._av1_items(data + box(b"meta", b"")))
    with pytest.raises(ImageError, match="the iinf box occurs twice"):
        list(reader._av1_items(box(b"meta", bytes(4) + lists + lists)))


def unit(kind: int, content: bytes, extended: bool = False, length: bytes | None = b"") -> bytes:
    """A unit (OBU) of an AV1 stream; without a length it ends with the stream."""
    head = bytes([kind << 3 | (4 if extended else 0) | (0 if length is None else 2)]) + (b"\xff" if extended else b"")
    return head + (b"" if length is None else length or bytes([len(content)])) + content


def test_units_of_a_stream_may_have_an_extension_and_no_length():
    header_ = sequence_header(640, 360, False, False, False, (4,))
    padded = header_ + bytes(300 - len(header_))
    streams = [
        unit(2, b"") + unit(1, header_),
        unit(2, b"", extended=True) + unit(1, header_, extended=True),
        unit(9, b"\x08" * 5) + unit(1, header_, length=None),
        unit(1, padded, length=bytes([300 & 127 | 128, 300 >> 7])) + unit(5, b"\x0a"),
        unit(1, header_, length=bytes([len(header_) | 128, 128, 128, 128, 128, 128, 128, 0])),
    ]
    for stream in streams:
        assert list(reader._sequence_headers(stream)) == [Frame(640, 360, 1 << 20)]
    with pytest.raises(IndexError):
        list(reader._sequence_headers(unit(1, header_, length=bytes([len(header_) | 128] + [128] * 7) + b"\0")))


def test_a_still_picture_with_a_reduced_header_has_one_size():
    text = "000" + "1" + "1" + "11111" + f"{9:04b}{8:04b}" + f"{639:010b}{359:09b}"
    content = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    assert list(reader._sequence_headers(unit(1, content))) == [Frame(640, 360, 640 * 360)]


@pytest.mark.parametrize(("zeros", "taken"), [(0, 0), (1, 1), (31, 31), (32, 0), (40, 0)])
def test_a_number_of_variable_length_is_skipped(zeros, taken):
    bits = reader._Bits(int("0" * zeros + "1" + "0" * taken + "101" + "0" * 200, 2).to_bytes(40, "big"))
    lead = 320 - (zeros + 1 + taken + 203)
    bits.take(lead)
    bits.skip_uvlc()
    assert bits.take(3) == 0b101


@pytest.mark.parametrize(
    ("frames", "known"),
    [
        ([Frame(10, 8, 80)] * 4, True),
        ([Frame(10, 8, 80)] * 5, False),
        ([Frame(10, 8, 80)] * 3 + [Frame(9, 9, 81)], False),
        ([Frame(10, 8, 4 * 80)], True),
        ([Frame(10, 8, 4 * 80 + 1)], False),
    ],
)
def test_all_frames_have_at_most_four_times_the_pixels_of_the_image(monkeypatch, frames, known):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(file, "AVIF")
    monkeypatch.setattr(header, "avif_frames", lambda data: frames)
    assert stored_size(file.getvalue()) == ((8, 10) if known else None)
