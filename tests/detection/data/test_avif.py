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
