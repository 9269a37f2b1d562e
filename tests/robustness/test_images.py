"""Broken images and paths, cases 36 to 51 of docs/reference/input-checks.md."""

import json
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

from detection.coco.annotations import load_annotations
from detection.data.dataset import CocoDataset
from detection.data.errors import DataError
from detection.data.image import read_image
from detection.data.presence import check_images
from detection.data.reading import Reading
from detection.data.transforms import Resize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photo() -> np.ndarray:
    """(60, 80, 3) RGB with smooth colours, which no format changes much."""
    y, x = np.mgrid[:60, :80]
    return np.stack([x * 3, y * 4, 255 - x * 3], axis=-1).clip(0, 255).astype(np.uint8)


def dataset(folder: Path, names: list[str], size=(60, 80), **reading) -> CocoDataset:
    height, width = size
    content = {
        "images": [{"id": i + 1, "height": height, "width": width, "file_name": n} for i, n in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [1, 1, 20, 20]} for i in range(len(names))
        ],
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return CocoDataset(load_annotations(path), folder, reading=Reading(**reading))


def save(path: Path, photo: np.ndarray, mode: str = "RGB", **options) -> Path:
    Image.fromarray(photo).convert(mode).save(path, **options)
    return path


def test_36_a_missing_file_is_told_before_training(tmp_path, photo):
    save(tmp_path / "a.png", photo)
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing, first .*b\.png"):
        check_images(dataset(tmp_path, ["a.png", "b.png"]))


def test_37_a_cut_jpeg_is_refused_or_replaced_within_a_budget(tmp_path, photo):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save(tmp_path / name, photo)
    cut = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(DataError, match=r"a\.jpg: the JPEG is cut short"):
        dataset(tmp_path, ["a.jpg", "b.jpg"])[0]
    lenient = dataset(tmp_path, ["a.jpg", "b.jpg"], bad_images=1)
    assert lenient[0].image_id == 2
    assert lenient.bad_images() == [0]
    (tmp_path / "c.jpg").write_bytes(cut[:100])
    full = dataset(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], bad_images=1)
    full[0]
    with pytest.raises(DataError, match=r"more unreadable images than data\.bad_images \(1\) allows"):
        full[2]


def test_38_changed_bytes_are_read_or_refused_but_nothing_else(tmp_path, photo):
    """A JPEG has no checksums: what still decodes to the right size cannot be told from a photo."""
    path = save(tmp_path / "a.jpg", photo, quality=90)
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = []
    for _ in range(60):
        data = bytearray(good)
        for place in generator.integers(0, len(data), 3):
            data[place] = generator.integers(256)
        path.write_bytes(bytes(data))
        try:
            image = read_image(path, (60, 80))
        except ValueError as error:
            refused.append(str(error))
        else:
            assert image.shape == (60, 80, 3)
    assert all("a.jpg" in message for message in refused)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html></html>", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\0" * 999]
)
def test_39_what_is_no_image(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK"])
def test_40_every_mode_becomes_rgb(tmp_path, photo, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    image = read_image(save(tmp_path / f"a{suffix}", photo, mode))
    assert image.shape == (60, 80, 3)
    expected = np.asarray(Image.fromarray(photo).convert(mode).convert("RGB"))
    assert np.abs(image.astype(int) - expected).mean() < (12 if mode == "CMYK" else 1)


def test_41_sixteen_bits_are_scaled(tmp_path):
    gray = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), gray)
    image = read_image(tmp_path / "a.png")
    assert abs(image.mean() - 127.5) < 1
    assert (image.min(), image.max()) == (0, 255)


def test_41_sixteen_bits_of_three_colours_in_a_tiff(tmp_path, photo):
    cv2.imwrite(str(tmp_path / "a.tif"), photo[..., ::-1].astype(np.uint16) * 257)
    for _ in range(2):  # OpenCV, asked for RGB, gives memory that was never written
        assert np.array_equal(read_image(tmp_path / "a.tif"), photo)


def test_42_a_float_tiff_is_refused_by_name(tmp_path):
    Image.fromarray(np.ones((60, 80), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")


def test_42_a_tiff_of_four_bands_is_not_taken_for_gray(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    bands = np.zeros((60, 80, 4), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", bands, planarconfig="contig", photometric="minisblack")
    with pytest.raises(ValueError, match=r"a\.tif: has 4 channels, but model\.backbone\.in_channels is 3"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_43_exif_rotation_is_settled_by_the_annotations(tmp_path, photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", photo, exif=exif, quality=95)
    assert read_image(path, (60, 80)).shape == (60, 80, 3)
    if orientation >= 5:
        assert read_image(path, (80, 60)).shape == (80, 60, 3)
    else:
        with pytest.raises(ValueError, match=r"a\.jpg: is 60 x 80 .*annotations say 80 x 60"):
            read_image(path, (80, 60))


def test_44_another_size_than_the_annotations_say(tmp_path, photo):
    save(tmp_path / "a.png", photo)
    with pytest.raises(DataError, match=r"is 60 x 80 \(height x width\), but its annotations say 61 x 80; correct one"):
        dataset(tmp_path, ["a.png"], (61, 80))[0]


@pytest.mark.parametrize("size", [(60.0, "80"), ("60", 80.0)])
def test_44_a_size_that_is_a_float_or_a_word(tmp_path, photo, size):
    save(tmp_path / "a.png", photo)
    assert dataset(tmp_path, ["a.png"], size)[0].original_size == (60, 80)


@pytest.mark.parametrize("size", [(1, 1), (8, 2000), (2000, 8)])
def test_45_odd_shapes_are_resized_to_something(tmp_path, size):
    image = np.zeros((*size, 3), np.uint8)
    resized = Resize(64, 100).image(image)
    assert min(resized.shape[:2]) >= 1
    assert max(resized.shape[:2]) <= 100


def test_45_a_size_of_zero_is_refused(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.slow
def test_46_bombs_are_refused_from_their_header_in_no_time_and_memory(tmp_path):
    """In a process of its own with a gigabyte: decoding would not fit."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(data)
    script = (
        "import sys\n"
        "from detection.data.image import read_image\n"
        "from detection.memory import most_resident\n"
        "used = most_resident()\n"
        "try:\n"
        "    read_image(sys.argv[1])\n"
        "except ValueError as error:\n"
        "    grown = most_resident() - used\n"
        "    print(error, grown < 50e6)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "bomb.png")],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bomb.png: claims 60000 x 60000 pixels" in done.stdout
    assert done.stdout.strip().endswith("True")


def test_47_the_suffix_may_lie(tmp_path, photo):
    save(tmp_path / "a.png", photo)
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), photo)


@pytest.mark.parametrize("name", ["a b.png", "ü#1.png", "日本.png", "a\nb.png", "a%20b.png", "'\".png"])
def test_48_names_may_hold_anything(tmp_path, photo, name):
    save(tmp_path / "plain.png", photo)
    (tmp_path / "plain.png").rename(tmp_path / name)
    assert np.array_equal(dataset(tmp_path, [name])[0].image, photo)


@pytest.mark.skipif(os.name == "nt", reason="there, both are the same")
def test_48_a_backslash_is_a_slash_where_that_file_exists(tmp_path, photo):
    (tmp_path / "deep").mkdir()
    save(tmp_path / "deep" / "a.png", photo)
    data = dataset(tmp_path, ["deep\\a.png"])
    check_images(data)
    assert np.array_equal(data[0].image, photo)


def test_49_links_are_followed_and_nothing_is_written_beside_the_data(tmp_path, photo):
    real = tmp_path / "real"
    real.mkdir()
    save(real / "a.png", photo)
    (tmp_path / "data").symlink_to(real)
    data = dataset(tmp_path, ["data/a.png"])
    before = sorted(tmp_path.rglob("*"))
    assert np.array_equal(data[0].image, photo)
    check_images(data)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "deep/../../a.png", "..\\a.png", "\\a.png"])
def test_50_names_that_lead_out_are_refused(tmp_path, photo, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    save(tmp_path / "a.png", photo)
    with pytest.raises(
        DataError, match=r"points outside the image folder; correct it, or set data\.allow_outside_root"
    ):
        dataset(inside, [name])[0]
    if name == "../a.png":
        assert np.array_equal(dataset(inside, [name], allow_outside_root=True)[0].image, photo)


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_51_pipes_devices_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for path in (tmp_path / "pipe.jpg", tmp_path / "folder.jpg", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is not a regular file"):
            read_image(path)
