"""Image sizes have one source, a file has one image, and no file decodes to more pixels than its size."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data import header
from detection.data.header import _gif_images, stored_size
from detection.data.image import image_size, images_behind, read_image

ROOT = Path(__file__).resolve().parents[3]
HEIGHT, WIDTH = 37, 50


def picture() -> np.ndarray:
    """(37, 50, 3) of smooth colors."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 5, y * 6, 255 - x * 5], axis=-1).clip(0, 255).astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encoded(suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, picture()[..., ::-1], options)[1].tobytes()


def by_pillow(kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, kind, **options)
    return file.getvalue()


KINDS = {
    "png": encoded(".png"),
    "jpeg": encoded(".jpg"),
    "progressive": by_pillow("JPEG", progressive=True),
    "bmp": encoded(".bmp"),
    "webp": encoded(".webp"),
    "lossless webp": by_pillow("WEBP", lossless=True),
    "webp with exif": by_pillow("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "ppm": encoded(".ppm"),
    "ascii ppm": encoded(".ppm", cv2.IMWRITE_PXM_BINARY, 0),
    "sun raster": encoded(".ras"),
    "jp2": encoded(".jp2"),
    "j2k": by_pillow("JPEG2000", no_jp2=True),
    "avif": by_pillow("AVIF", quality=95),
    "gif": by_pillow("GIF"),
    "tiff": encoded(".tif"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_with_its_size(tmp_path, kind):
    path = tmp_path / "image.bin"
    path.write_bytes(KINDS[kind])
    assert image_size(path) == (HEIGHT, WIDTH)
    found = read_image(path, (HEIGHT, WIDTH))
    assert np.abs(found.astype(int) - picture()).mean() < (16 if kind == "gif" else 6)
    assert read_image(path, channels=1).shape == (HEIGHT, WIDTH, 1)
    with pytest.raises(ValueError, match=r"image\.bin: claims 50 x 37 pixels, more than 1849"):
        read_image(path, max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_of_any_length_has_the_right_size_or_none(kind):
    data = KINDS[kind]
    for length in range(0, min(len(data), 400)):
        assert stored_size(data[:length]) in (None, (HEIGHT, WIDTH))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("AVIF", {})])
def test_all_but_the_first_image_would_be_lost(tmp_path, kind, options):
    first = Image.fromarray(picture())
    others = [Image.fromarray(picture()[:, ::-1]), Image.fromarray(picture()[::-1])]
    path = tmp_path / "moves.bin"
    first.save(path, kind, save_all=True, append_images=others, duration=100, **options)
    with pytest.raises(
        ValueError, match=r"moves\.bin: contains more than one image, .*save each image in its own file"
    ):
        read_image(path)
    first.save(path, kind, save_all=True, append_images=[], **options)
    assert read_image(path).shape == (HEIGHT, WIDTH, 3)


def test_the_first_image_of_a_camera_s_file_is_the_photo(tmp_path):
    first, other = Image.fromarray(picture()), Image.fromarray(picture()[::-1])
    first.save(tmp_path / "photo.mpo", "MPO", save_all=True, append_images=[other], quality=95)
    assert np.abs(read_image(tmp_path / "photo.mpo").astype(int) - picture()).mean() < 6
    assert images_behind(tmp_path / "photo.mpo") == 1
    first.save(tmp_path / "photo.jpg")
    assert images_behind(tmp_path / "photo.jpg") == images_behind(tmp_path / "none.jpg") == 0


def test_a_gif_equals_its_png(tmp_path):
    palette = Image.fromarray(picture()).convert("P")
    for name, options in (("plain", {}), ("clear", {"transparency": 3})):
        palette.save(tmp_path / f"{name}.gif", **options)
        palette.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_image(tmp_path / f"{name}.gif"), read_image(tmp_path / f"{name}.png"))


def bmp(width: int, height: int) -> bytes:
    data = bytearray(KINDS["bmp"])
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def jpeg2000(width: int, height: int, components: int = 3, tile: int = 0) -> bytes:
    data = bytearray(KINDS["j2k"])
    data[8:40] = struct.pack(">8I", width, height, 0, 0, tile or width, tile or height, 0, 0)
    data[40:42] = struct.pack(">H", components)
    return bytes(data)


def boxed(codestream: bytes) -> bytes:
    """A JP2 whose own header says 50 x 37."""
    data = KINDS["jp2"]
    place = data.index(b"jp2c")
    return data[: place - 4] + struct.pack(">I", 0) + b"jp2c" + codestream


def jp2_palette(columns: int) -> bytes:
    """A gray JPEG 2000 whose palette makes so many channels of it."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    file = io.BytesIO()
    Image.fromarray(picture()[..., 0].copy()).save(file, "JPEG2000", no_jp2=True)
    header = box(b"ihdr", struct.pack(">IIHBBBB", HEIGHT, WIDTH, 1, 7, 7, 0, 0))
    header += box(b"colr", bytes([1, 0, 0]) + struct.pack(">I", 16))
    header += box(b"pclr", struct.pack(">HB", 256, columns) + bytes([7]) * columns + bytes(range(256)) * columns)
    header += box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, k) for k in range(columns)))
    start = KINDS["jp2"][:12] + box(b"ftyp", b"jp2 " + bytes(4) + b"jp2 ")
    return start + box(b"jp2h", header) + box(b"jp2c", file.getvalue())


def avif_of_two_sizes(height: int, width: int) -> bytes:
    """An AVIF of large frames that says it is 64 x 48."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "AVIF", speed=10)
    data = bytearray(file.getvalue())
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 64, 48)
    return bytes(data)


def hidden_frame() -> bytes:
    """A JPEG of 60000 x 60000 with a smaller frame header that only a careless reader sees first."""
    data = KINDS["jpeg"]
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 19]
    huge = frame[:5] + struct.pack(">HH", 60_000, 60_000) + frame[9:]
    wrapped = b"\xff\xe1" + struct.pack(">H", 2 + len(frame)) + frame
    return data[:2] + b"\xff\0" + struct.pack(">H", len(huge) + 6) + huge + wrapped[:] + data[2:at] + data[at + 19 :]


def scans(number: int) -> bytes:
    data = KINDS["progressive"]
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * number + data[-2:]


def words(number: int, kind: bytes = b"zTXt") -> bytes:
    """A PNG whose words would unpack to eight megabytes each."""
    data = KINDS["png"]
    packed = zlib.compress(bytes(7_900_000), 9)
    between = b"\0\0" if kind == b"zTXt" else b"\0\1\0\0\0"
    return data[:33] + b"".join(chunk(kind, b"k%d" % i + between + packed) for i in range(number)) + data[33:]


def gif_frame(width: int, height: int) -> bytes:
    data = bytearray(KINDS["gif"])
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def npy(text: str) -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(100)


ATTACKS = {
    "bmp": (bmp(60_000, 60_000), "claims 60000 x 60000"),
    "bmp upside down": (bmp(60_000, -60_000), "claims 60000 x 60000"),
    "bmp of nothing": (bmp(-5, 5), "not an image"),
    "ppm": (b"P6 60000 60000 255\n", "claims 60000 x 60000"),
    "ppm comment": (b"P6 #\r60000 60000\n50 37 255\n", "claims 60000 x 60000"),
    "ppm long": (b"P6 " + b"9" * 20 + b" 1 255\n", "not an image"),
    "sun raster": (b"\x59\xa6\x6a\x95" + struct.pack(">II", 60_000, 60_000) + bytes(50), "claims 60000 x 60000"),
    "gif": (b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(50), "claims 60000 x 60000"),
    "gif frame": (gif_frame(60_000, 60_000), "has a frame that extends beyond the image"),
    "webp": (b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\x3f\xff\xff\x3f" + bytes(9), "claims 4194304 x 41943"),
    "j2k": (jpeg2000(60_000, 60_000), "claims 60000 x 60000"),
    "jp2 that says two sizes": (boxed(jpeg2000(60_000, 60_000)), "claims 60000 x 60000"),
    "j2k components": (jpeg2000(50, 37, 16_384), "16384 components"),
    "jp2 palette": (jp2_palette(255), "a palette of 255 channels"),
    "avif of two sizes": (avif_of_two_sizes(2000, 2500), "not an image"),
    "j2k cut": (KINDS["j2k"][:40], "header is cut short"),
    "j2k tiles": (jpeg2000(12_000, 12_000, 3, 1), "too many tiles"),
    "jpeg with a hidden frame": (hidden_frame(), "not an image"),
    "jpeg scans": (scans(200), "more than 100 scans"),
    "png frame": (
        KINDS["png"][:33] + chunk(b"fcTL", struct.pack(">III", 0, 60_000, 60_000) + bytes(14)) + KINDS["png"][33:],
        "frame larger than the image",
    ),
    "npy": (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 60000), }"), "claims 60000 x 60000"),
    "npy channels": (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9, 99999999999), }"), "99999999999"),
    "npy type": (npy("{'descr': '|V999999999', 'fortran_order': False, 'shape': (50, 50, 3), }"), "pixels; save it"),
    "npy code": (npy("{'descr': '|O', 'fortran_order': False, 'shape': (50, 50, 3), }"), "pixels; save it"),
    "npy depth": (npy("(" * 100), "header is broken"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_rejected_by_name(tmp_path, name):
    data, told = ATTACKS[name]
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"image\.bin: .*{told}") as caught:
        read_image(path)
    assert len(str(caught.value).replace(str(path), "")) < 200


READER = """
import resource, sys, time
from detection.data.image import read_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read_image(sys.argv[1])
before, start = peak(), time.perf_counter()
for path in sys.argv[2:]:
    try: read_image(path, max_pixels=1_000_000)
    except ValueError: pass
print(peak() - before, time.perf_counter() - start)
"""


def test_no_attack_takes_memory_or_time(tmp_path):
    """A million pixels, and at most 32 bytes for each of them; with the files in memory."""
    (tmp_path / "first.png").write_bytes(KINDS["png"])
    attacks = {name: data for name, (data, _) in ATTACKS.items()}
    attacks |= {kind.decode(): words(300, kind) for kind in (b"zTXt", b"iTXt")}
    for number, data in enumerate(attacks.values()):
        (tmp_path / f"{number}.bin").write_bytes(data)
    paths = [str(tmp_path / f"{number}.bin") for number in range(len(attacks))]
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "first.png"), *paths],
        capture_output=True, text=True, timeout=100, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < 32
    assert seconds < 5


def test_a_palette_of_colors_in_a_jpeg_2000_is_read(tmp_path):
    (tmp_path / "palette.jp2").write_bytes(jp2_palette(3))
    assert read_image(tmp_path / "palette.jp2").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_words_in_a_png_change_no_pixel(tmp_path, kind):
    (tmp_path / "plain.png").write_bytes(KINDS["png"])
    (tmp_path / "words.png").write_bytes(words(3, kind))
    assert np.array_equal(read_image(tmp_path / "words.png"), read_image(tmp_path / "plain.png"))


def test_sixteen_bits_become_eight_in_pieces(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (600, 7, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "deep.png"), expected)


def gif_of(images: int) -> bytes:
    """Images that share one palette, so that none has a palette of its own."""
    first = Image.fromarray(picture()).convert("P", palette=Image.Palette.WEB)
    others = [first.transpose(Image.Transpose(k)) for k in range(images - 1)]  # mirrored, upside down
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=50, optimize=False)
    return file.getvalue()


@pytest.mark.parametrize("images", [1, 2, 3])
def test_images_of_a_gif_are_counted_with_a_shared_palette(images):
    data = gif_of(images)
    assert data[10] & 0x80
    found = list(_gif_images(data))
    assert len(found) == images
    assert found[0] == (0, 0, WIDTH, HEIGHT)


def test_an_image_of_a_gif_counts_from_its_first_byte_of_pixels():
    data = KINDS["gif"]
    at = data.index(b"\x2c" + struct.pack("<4H", 0, 0, WIDTH, HEIGHT))
    assert len(list(_gif_images(data[: at + 11]))) == 1
    assert list(_gif_images(data[: at + 10])) == []


@pytest.mark.parametrize("length", [4, 7])
def test_a_box_shorter_than_its_head_is_damage(length):
    data = struct.pack(">I", length).ljust(length, b"x") + header._J2K
    with pytest.raises(struct.error, match="no valid length"):
        header._codestream(data + bytes(20))


def test_the_codestream_begins_behind_boxes_of_either_length():
    boxes = struct.pack(">I4s", 8, b"free") + struct.pack(">I4sQ", 1, b"free", 16)
    assert header._codestream(boxes + header._J2K + bytes(9)) == 24
    for head in (struct.pack(">I4s", 99, b"jp2c"), struct.pack(">I4sQ", 1, b"jp2c", 99)):
        assert header._codestream(boxes + head + header._J2K + bytes(9)) == 24 + len(head)
        with pytest.raises(struct.error, match="does not begin with its size"):
            header._codestream(boxes + head + b"\xff" + header._J2K + bytes(9))
    with pytest.raises(struct.error, match="no valid length"):
        header._codestream(struct.pack(">I4sQ", 1, b"free", 15) + header._J2K + bytes(20))
