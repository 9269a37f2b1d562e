import inspect
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from detection.coco.annotations import load_annotations
from detection.data import image
from detection.data.image import (
    check_whole,
    image_size,
    images_behind,
    orientation,
    read_bytes,
    read_image,
    shown_size,
    to_depth,
    turned,
)
from detection.data.reading import Reading
from detection.engine.datamodule import CocoDataModule

RAMP = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (48, 1))


def save(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "RGB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(RAMP).convert(mode)
    pixels = read_image(save(image, tmp_path / "image.png"))
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    expected = np.asarray(image.convert("RGB"))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_cmyk_becomes_rgb(tmp_path):
    colours = Image.merge(
        "RGB", [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1]), Image.fromarray(RAMP.T.copy()).resize((64, 48))]
    )
    pixels = read_image(save(colours.convert("CMYK"), tmp_path / "image.jpg", quality=95))
    assert np.abs(pixels.astype(int) - np.asarray(colours)).mean() < 12


def test_red_is_first(tmp_path):
    assert read_image(save(Image.new("RGB", (8, 8), (250, 10, 20)), tmp_path / "red.png"))[0, 0].tolist() == [
        250,
        10,
        20,
    ]


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), RAMP.astype(np.uint16) * 257)
    assert np.abs(read_image(tmp_path / "deep.png")[..., 0].astype(int) - RAMP).max() <= 1


def test_exif_rotation_is_settled_by_the_annotations(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown standing
    path = save(Image.fromarray(RAMP).convert("RGB"), tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(path).shape == (64, 48, 3)
    assert read_image(path, (64, 48)).shape == (64, 48, 3)
    assert read_image(path, (48, 64)).shape == (48, 64, 3)
    with pytest.raises(ValueError, match="annotations say 30 x 30"):
        read_image(path, (30, 30))


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_exif_is_settled_in_drafts_whose_sides_no_longer_differ(tmp_path, reduce):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = np.zeros((64, 63, 3), np.uint8)
    image[:32, 32:] = 255  # at the right as stored; turned, it would be below
    path = save(Image.fromarray(image), tmp_path / "turned.jpg", exif=exif, quality=95)
    pixels = read_image(path, (64, 63), reduce=reduce)
    height, width = pixels.shape[:2]
    assert pixels[height // 4, width * 3 // 4].min() > 200
    assert pixels[height * 3 // 4, width * 3 // 4].max() < 50


def test_red_is_first_in_every_format(tmp_path):
    red = np.full((8, 8, 3), (10, 20, 250), np.uint8)
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"):
        cv2.imwrite(str(tmp_path / f"red{suffix}"), red)
        assert np.abs(read_image(tmp_path / f"red{suffix}")[0, 0].astype(int) - (250, 20, 10)).max() < 9


def test_names_may_hold_anything_and_lie_about_the_format(tmp_path):
    path = tmp_path / "ein Bild #1 \u00e4\u6f22.jpg"
    Image.fromarray(RAMP).save(path, format="PNG")
    assert read_image(path).shape == (48, 64, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_cut_file_is_refused_not_filled_with_grey(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"whole{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ValueError, match="cut short"):
        read_image(path)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of 33 bytes of header that claims so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"<html>not found</html>", "not an image"), (bomb(), "claims 60000 x 60000 pixels")],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


LIMIT = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pixels from which on Pillow raises a DecompressionBombError."""


@pytest.mark.parametrize("factor", [1, 3, 7])
def test_the_limit_of_pixels_is_pillows_to_the_pixel(tmp_path, factor):
    path = tmp_path / "image.png"
    height = -(-(LIMIT + 1) // factor)
    path.write_bytes(bomb(factor, height))
    with pytest.raises(ValueError, match=f"claims {factor} x {height} pixels, more than {LIMIT};"):
        read_image(path)
    path.write_bytes(bomb(factor, LIMIT // factor))
    with pytest.raises(ValueError, match="cut short"):  # the size is allowed; only the pixels are missing
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp", ".tif", ".npy"])
def test_a_limit_of_ones_own_counts_pixels_in_every_format(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    if suffix == ".npy":
        np.save(path, RAMP)
    else:
        Image.fromarray(RAMP).convert("RGB").save(path)
    channels = 1 if suffix == ".npy" else 3
    assert read_image(path, max_pixels=48 * 64, channels=channels).shape[:2] == (48, 64)
    with pytest.raises(ValueError, match=f"claims 64 x 48 pixels, more than {48 * 64 - 1};"):
        read_image(path, max_pixels=48 * 64 - 1, channels=channels)


def test_every_reader_starts_with_the_same_limit():
    for function in (read_image, check_whole, load_annotations, CocoDataModule):
        assert inspect.signature(function).parameters["max_pixels"].default == LIMIT, function
    assert Reading().max_pixels == LIMIT


def test_only_files_are_read(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="not a regular file"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_turn_of_exif_is_pillows(turn):
    stored = np.random.default_rng(turn).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = turn
    expected = np.asarray(ImageOps.exif_transpose(image))
    found = turned(stored, turn)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous


def with_exif(path, turn: int, height: int = 48, width: int = 64):
    exif = Image.Exif()
    exif[0x0112] = turn
    return save(Image.fromarray(np.zeros((height, width, 3), np.uint8)), path, exif=exif)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("turn", range(10))
def test_the_size_as_shown_follows_the_orientation(tmp_path, suffix, turn):
    path = with_exif(tmp_path / f"image{suffix}", turn)
    assert orientation(path) == (turn if 1 <= turn <= 8 else 1)
    assert shown_size(path) == ((64, 48) if 5 <= turn <= 8 else (48, 64))
    assert image_size(path) == (48, 64)


def test_what_is_no_image_is_not_turned(tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    assert orientation(tmp_path / "text.jpg") == orientation(tmp_path / "none.jpg") == orientation(tmp_path) == 1
    assert images_behind(tmp_path / "text.jpg") == 0


@pytest.mark.parametrize(("number", "read"), [(9, True), (15, True), (17, False)])
def test_the_header_is_in_the_first_megabyte(tmp_path, number, read):
    path = save(Image.fromarray(RAMP), tmp_path / "image.jpg")
    data = path.read_bytes()
    path.write_bytes(data[:2] + (b"\xff\xef\xff\xff" + bytes(65_533)) * number + data[2:])
    if read:
        assert image_size(path) == (48, 64)
    else:
        with pytest.raises(ValueError, match="is not an image, or its header is broken; replace the file or remove"):
            image_size(path)
    assert read_image(path).shape == (48, 64, 3)


@pytest.mark.parametrize("others", [1, 2])
def test_further_images_of_a_camera_are_counted(tmp_path, others):
    image = Image.fromarray(RAMP).convert("RGB")
    path = save(image, tmp_path / "image.mpo", format="MPO", save_all=True, append_images=[image] * others)
    assert images_behind(path) == others
    data = path.read_bytes()
    for length, found in ((40_000, others), (65_533, 0)):  # the first 64 kB are searched
        path.write_bytes(data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + length) + bytes(length) + data[2:])
        assert images_behind(path) == found


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"reduce": 2}, (24, 32, 3)),
        ({"reduce": 4}, (12, 16, 3)),
        ({"reduce": 8}, (6, 8, 3)),
        ({"reduce": 1}, (48, 64, 3)),
        ({"reduce": 2, "channels": 1}, (48, 64, 1)),
        ({"reduce": 2, "depth": 16}, (48, 64, 3)),
        ({"reduce": 2, "size": None}, (48, 64, 3)),
    ],
)
def test_a_draft_needs_a_size_and_eight_bits_of_rgb(tmp_path, options, shape):
    colors = np.stack([RAMP, RAMP // 2, 255 - RAMP], axis=-1)
    for suffix in (".jpg", ".png"):
        path = save(Image.fromarray(colors), tmp_path / f"image{suffix}")
        found = read_image(path, **{"size": (48, 64)} | options)
        assert found.shape == (shape if suffix == ".jpg" else (48, 64, shape[2]))
        if shape[2] == 3:
            red = found.reshape(-1, 3).mean(axis=0) / (257 if "depth" in options else 1)
            assert np.abs(red - [127, 63, 127]).max() < 4
            assert found[0, 0, 2] > found[0, -1, 2]


def test_a_square_draft_is_read(tmp_path):
    path = save(Image.fromarray(RAMP[:, :48]), tmp_path / "square.jpg")
    assert read_image(path, (48, 48), reduce=2).shape == (24, 24, 3)
    lying = save(Image.fromarray(RAMP[:47, :48]), tmp_path / "nearly.jpg")  # sides that become equal
    assert read_image(lying, (47, 48), reduce=2).shape == (47, 48, 3)


def test_depths_are_converted_with_rounding():
    deep = np.array([0, 128, 129, 257 + 128, 257 + 129, 65535 - 129, 65535 - 128, 65535], np.uint16)[:, None, None]
    assert to_depth(deep, 8).ravel().tolist() == [0, 0, 1, 1, 2, 254, 255, 255]
    assert to_depth(deep, 16) is deep
    small = np.array([0, 1, 255], np.uint8)[:, None, None]
    assert to_depth(small, 16).ravel().tolist() == [0, 257, 65535]
    assert to_depth(small, 8) is small
    many = np.arange(0, 65535, 100, dtype=np.uint16)[:, None, None]
    assert np.array_equal(to_depth(many, 8), np.floor(many / 257 + 0.5))
    with pytest.raises(ValueError, match=r"a\.png: has float32 pixels; save it with 8 or 16 bits per channel"):
        to_depth(small.astype(np.float32), 8, "a.png")


def test_the_start_of_a_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abcdef")
    assert read_bytes(tmp_path / "a.bin") == b"abcdef"
    assert read_bytes(tmp_path / "a.bin", most=2) == b"ab"


def test_a_gray_gif_has_one_channel(tmp_path):
    path = save(Image.fromarray(RAMP), tmp_path / "image.gif")
    assert read_image(path, channels=1).shape == (48, 64, 1)
    assert read_image(path, depth=16).dtype == np.uint16
    for channels in (2, 4):
        with pytest.raises(ValueError, match=r"image\.gif: .*(has \d channels?, but|cannot|is not)"):
            read_image(path, channels=channels)


@pytest.mark.parametrize(("kind", "known"), [("TIFF", True), ("AVIF", True), ("PNG", False)])
def test_a_tiff_and_an_avif_are_read_whole_for_their_size(tmp_path, monkeypatch, kind, known):
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(tmp_path / "image", kind)
    monkeypatch.setattr(image, "read_bytes", lambda path, most=None: path.read_bytes()[: most and 20])
    if known:
        assert image_size(tmp_path / "image") == (7, 9)
    else:
        with pytest.raises(ValueError, match="not an image"):
            image_size(tmp_path / "image")
