"""Read the frame sizes inside an AVIF file, to know how many pixels the decoder will produce.

An AVIF container states an image size, and the AV1 stream inside states its own. The decoder uses the one in the
stream. This module reads the stream's sizes before anything decodes the file.

Formats: ISO/IEC 14496-12 (boxes), ISO/IEC 23008-12 (items), AV1 Bitstream & Decoding Process Specification, 5.5.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from detection.data.errors import ImageError

_SEQUENCE_HEADER = 1
_MOST_ITEMS = 4096


@dataclass
class Frame:
    """The frame size that an AV1 sequence header states."""

    width: int
    height: int
    largest: int
    """Largest number of pixels that a later frame can have: its size may use the same number of bits."""


def avif_frames(data: bytes) -> list[Frame]:
    """Return the frames of all sequence headers of all AV1 items in ``data``.

    Raises:
        ImageError: the boxes or the streams are broken.
    """
    try:
        return [frame for item in _av1_items(data) for frame in _sequence_headers(item)]
    except (struct.error, IndexError) as error:
        raise ImageError("its header is broken; replace the file") from error


def _boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, the start and the end of each box's content."""
    while begin + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, begin)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, begin + 8), 16
        stop = begin + length if length else end
        if length and length < head:
            raise ImageError("its header is broken (a box has no valid length); replace the file")
        yield kind, begin + head, min(stop, end)
        begin = stop


def _av1_items(data: bytes) -> Iterator[bytes]:
    metas = [(begin, end) for kind, begin, end in _boxes(data, 0, len(data)) if kind == b"meta"]
    if len(metas) != 1:
        raise ImageError("its header is broken (it needs exactly one meta box); replace the file")
    inner: dict[bytes, tuple[int, int]] = {}
    for kind, begin, end in _boxes(data, metas[0][0] + 4, metas[0][1]):
        if kind in (b"iloc", b"iinf", b"idat") and kind in inner:
            raise ImageError(f"its header is broken (the {kind.decode()} box occurs twice); replace the file")
        inner[kind] = (begin, end)
    if not {b"iloc", b"iinf"} <= inner.keys():
        raise ImageError("its header is broken (the iloc or iinf box is missing); replace the file")
    wanted = _numbers_of_av1(data, *inner[b"iinf"])
    for number, method, extents in _places(data, *inner[b"iloc"]):
        if number in wanted:
            base = inner.get(b"idat", (len(data), 0))[0] if method == 1 else 0
            yield b"".join(data[base + begin : base + begin + length if length else None] for begin, length in extents)


def _numbers_of_av1(data: bytes, begin: int, end: int) -> set[int]:
    found = set()
    for kind, start, _ in _boxes(data, begin + (6 if data[begin] == 0 else 8), end):
        if kind == b"infe":
            wide = data[start] > 2  # the version
            number = int.from_bytes(data[start + 4 : start + (8 if wide else 6)], "big")
            place = start + (10 if wide else 8)
            if data[place : place + 4] == b"av01":
                found.add(number)
    return found


def _places(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield the ID, the construction method, and the (start, length) of every extent of each item."""
    version = data[begin]
    sizes = [data[begin + 4] >> 4, data[begin + 4] & 15, data[begin + 5] >> 4, data[begin + 5] & 15 if version else 0]
    reader = _Bytes(data, begin + 6, end)
    count = reader.take(4 if version == 2 else 2)
    if count > _MOST_ITEMS:
        raise ImageError(f"has more than {_MOST_ITEMS} items; save it as PNG")
    for _ in range(count):
        number = reader.take(4 if version == 2 else 2)
        method = reader.take(2) & 15 if version else 0
        reader.take(2)  # data_reference_index: decoders reject items in other files
        base = reader.take(sizes[2])
        extents = []
        for _ in range(reader.take(2)):
            reader.take(sizes[3])
            extents.append((base + reader.take(sizes[0]), reader.take(sizes[1])))
        yield number, method, extents


class _Bytes:
    def __init__(self, data: bytes, begin: int, end: int) -> None:
        self._data, self._at, self._end = data, begin, end

    def take(self, number: int) -> int:
        begin, self._at = self._at, self._at + number
        if self._at > self._end:
            raise IndexError
        return int.from_bytes(self._data[begin : self._at], "big")


def _sequence_headers(stream: bytes) -> Iterator[Frame]:
    position = 0
    while position < len(stream):
        head = stream[position]
        position += 2 if head & 4 else 1
        if not head & 2:  # no length field: this unit ends with the stream
            length = len(stream) - position
        else:
            length, position = _leb128(stream, position)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _frame(_Bits(stream[position : position + length]))
        position += length


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for k in range(8):
        value |= (data[position + k] & 127) << 7 * k
        if data[position + k] < 128:
            return value, position + k + 1
    raise IndexError


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data[:128], "big"), 8 * len(data[:128])

    def take(self, number: int) -> int:
        self._left -= number
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & (1 << number) - 1

    def skip_uvlc(self) -> None:
        zeros = 0
        while not self.take(1):
            zeros += 1
        if zeros < 32:
            self.take(zeros)


def _frame(bits: _Bits) -> Frame:
    bits.take(4)  # profile, still picture
    single = bits.take(1)
    if single:  # reduced still-picture header: one frame of exactly this size
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    return Frame(width, height, width * height if single else 1 << width_bits + height_bits)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.skip_uvlc()
        if bits.take(1):  # decoder_model_info
            delay_bits = bits.take(5) + 1
            bits.take(42)
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if delays and bits.take(1):
            bits.take(4)
