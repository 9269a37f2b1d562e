import inspect
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from detection.coco.annotations import load_annotations
from detection.data.image import check_whole, read_image, turned
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
