import io
import random
import struct
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

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
