"""Images of 16 bits, and of more or fewer channels than three."""

import io
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.data.bands import read_bands
from detection.data.image import image_size, read_image, to_depth
from detection.data.scene import Scene
from detection.data.transforms import HorizontalFlip, Resize


def scene_of(image: np.ndarray) -> Scene:
    return Scene(image, np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool), [])


def pixels(channels: int, dtype=np.uint16, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (height, width, channels)).astype(dtype)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_npy_is_read_as_it_is(tmp_path, channels, dtype):
    image = pixels(channels, dtype)
    path = tmp_path / "image.npy"
    np.save(path, image if channels > 1 else image[..., 0])
    read = read_image(path, (20, 30), channels=channels, depth=8 * image.itemsize)
    assert read.dtype == dtype
    assert np.array_equal(read, image)
    assert image_size(path) == (20, 30)


def test_npy_of_the_other_byte_order(tmp_path):
    image = pixels(2)
    np.save(tmp_path / "image.npy", image.astype(">u2"))
    assert np.array_equal(read_image(tmp_path / "image.npy", channels=2, depth=16), image)


@pytest.mark.parametrize("channels", [2, 4, 7])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_several_bands(tmp_path, channels, planar):
    tifffile = pytest.importorskip("tifffile")
    image = pixels(channels)
    path = tmp_path / "image.tif"
    stored = image if planar == "contig" else image.transpose(2, 0, 1)
    tifffile.imwrite(path, stored, planarconfig=planar, photometric="minisblack")
    assert np.array_equal(read_image(path, (20, 30), channels=channels, depth=16), image)
    assert image_size(path) == (20, 30)


def test_what_opencv_makes_of_four_bands(tmp_path):
    """The trap: a grey image, without a word."""
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels(4), planarconfig="contig", photometric="minisblack")
    read = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read.shape == (20, 30)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("layout", [{}, {"tile": (32, 32)}, {"bigtiff": True, "byteorder": ">"}])
def test_a_tiff_of_three_channels_is_read_as_it_is(tmp_path, dtype, planar, photometric, layout):
    tifffile = pytest.importorskip("tifffile")
    image = pixels(3, dtype)
    stored = image if planar == "contig" else image.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "image.tif", stored, planarconfig=planar, photometric=photometric, **layout)
    depth = 8 * image.itemsize
    for _ in range(2):
        assert np.array_equal(read_image(tmp_path / "image.tif", (20, 30), depth=depth), image)
    assert np.array_equal(read_image(tmp_path / "image.tif", (20, 30)), to_depth(image, 8))


def test_what_opencv_makes_of_16_bit_tiffs():
    """The traps: memory that was never written, without a word; when this fails, the library has mended it."""
    tifffile = pytest.importorskip("tifffile")
    images = [pixels(3) // k for k in (1, 2, 3)]
    for planar, flag in (("contig", cv2.IMREAD_COLOR_RGB), ("separate", cv2.IMREAD_COLOR)):
        files = [io.BytesIO() for _ in images]
        for image, file in zip(images, files, strict=True):
            stored = image if planar == "contig" else image.transpose(2, 0, 1)
            tifffile.imwrite(file, stored, planarconfig=planar, photometric="rgb")
        # Together, as the memory of one may by chance hold what was written last.
        read = [cv2.imdecode(np.frombuffer(f.getvalue(), np.uint8), flag | cv2.IMREAD_ANYDEPTH) for f in files]
        read = read if flag == cv2.IMREAD_COLOR_RGB else [part[..., ::-1] for part in read]
        assert all(part.shape == image.shape for part, image in zip(read, images, strict=True))
        assert not all(np.array_equal(part, image) for part, image in zip(read, images, strict=True))


@pytest.mark.parametrize("bands", [2, 4, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_of_bands_is_no_gray_image(tmp_path, bands, channels):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "image.tif", pixels(bands), planarconfig="contig", photometric="minisblack")
    with pytest.raises(ValueError, match=rf"has {bands} channels, but model.backbone.in_channels is {channels}"):
        read_image(tmp_path / "image.tif", channels=channels)


def test_opacity_is_no_band(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    image = pixels(4, np.uint8)
    image[..., 3] = 255
    tifffile.imwrite(tmp_path / "rgba.tif", image, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(read_image(tmp_path / "rgba.tif"), image[..., :3])
    tifffile.imwrite(tmp_path / "la.tif", image[..., 2:], photometric="minisblack", extrasamples=["unassalpha"])
    assert np.array_equal(read_image(tmp_path / "la.tif", channels=1), image[..., 2:3])


def test_the_header_of_a_tiff_may_stand_at_its_end(tmp_path):
    cv2.imwrite(str(tmp_path / "image.tif"), pixels(3, height=400, width=500), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    assert (tmp_path / "image.tif").stat().st_size > 1 << 20
    assert image_size(tmp_path / "image.tif") == (400, 500)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the header
@pytest.mark.parametrize("length", [4, 8, 20, 100])
def test_a_cut_tiff_is_refused_by_name(tmp_path, length):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "image.tif", pixels(4), planarconfig="contig", photometric="minisblack")
    (tmp_path / "image.tif").write_bytes((tmp_path / "image.tif").read_bytes()[:length])
    for channels in (3, 4):
        with pytest.raises(ValueError, match=r"image\.tif"):
            read_image(tmp_path / "image.tif", channels=channels)


def test_a_tiff_is_read_without_tifffile(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    image = pixels(4)
    tifffile.imwrite(tmp_path / "image.tif", image, planarconfig="contig", photometric="minisblack")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert np.array_equal(read_image(tmp_path / "image.tif", channels=4, depth=16), image)


def test_png_of_16_bits_and_of_four_channels(tmp_path):
    grey, rgb, rgba = pixels(1), pixels(3), pixels(4, np.uint8)
    for name, image in (("grey", grey), ("rgb", rgb[..., ::-1]), ("rgba", rgba[..., [2, 1, 0, 3]])):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    assert np.array_equal(read_image(tmp_path / "grey.png", channels=1, depth=16), grey)
    assert np.array_equal(read_image(tmp_path / "rgb.png", depth=16), rgb)
    assert np.array_equal(read_image(tmp_path / "rgba.png", channels=4), rgba)
    assert read_image(tmp_path / "rgb.png", channels=1).shape == (20, 30, 1)


@pytest.mark.parametrize("ending", ["npy", "tif"])
def test_any_number_of_channels_has_a_limit(tmp_path, ending):
    """Without a number of channels, an image may have 8 values for each allowed pixel."""
    path = tmp_path / f"image.{ending}"
    many = np.zeros((2, 20, 8), dtype=np.uint8)
    for image, fits in ((many, True), (np.concatenate([many, many[..., :1]], axis=2), False)):
        if ending == "npy":
            np.save(path, image)
        else:
            pytest.importorskip("tifffile").imwrite(path, image, planarconfig="contig", photometric="minisblack")
        if fits:
            assert read_image(path, channels=None, max_pixels=40).shape == (2, 20, 8)
        else:
            with pytest.raises(ValueError, match="has 9 channels, which is too many for an image of this size"):
                read_image(path, channels=None, max_pixels=40)


def test_another_number_of_channels_is_refused_with_the_remedy(tmp_path):
    np.save(tmp_path / "image.npy", pixels(5))
    cv2.imwrite(str(tmp_path / "image.png"), pixels(3))
    for name, has in (("image.npy", 5), ("image.png", 3)):
        with pytest.raises(ValueError, match=rf"{name}: has {has} channels, but model.backbone.in_channels is 6"):
            read_image(tmp_path / name, channels=6)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 5, 3), dtype=np.float32), "float32 pixels"),
        (np.zeros((4, 5, 3), dtype=np.int8), "int8 pixels"),
        (np.zeros((4, 5, 3), dtype=bool), "bool pixels"),
        (np.zeros((4, 5, 3), dtype=np.uint32), "uint32 pixels"),
        (np.zeros((2, 4, 5, 3), dtype=np.uint8), r"shape \(2, 4, 5, 3\)"),
        (np.zeros(0, dtype=np.uint8), "shape"),
        (np.array([{}], dtype=object), "shape"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, told):
    np.save(tmp_path / "image.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=told) as error:
        read_image(tmp_path / "image.npy")
    assert "image.npy" in str(error.value)


def test_cut_npy_and_sizes_that_differ(tmp_path):
    np.save(tmp_path / "image.npy", pixels(5))
    with pytest.raises(ValueError, match="is 20 x 30"):
        read_image(tmp_path / "image.npy", (30, 20), channels=5)
    with pytest.raises(ValueError, match="claims 30 x 20 pixels, more than 100"):
        read_image(tmp_path / "image.npy", channels=5, max_pixels=100)
    whole = (tmp_path / "image.npy").read_bytes()
    for length in (8, 60, len(whole) - 7):
        (tmp_path / "image.npy").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"image\.npy"):
            read_image(tmp_path / "image.npy", channels=5)


@given(st.integers(0, 255))
def test_depths_there_and_back(value):
    image = np.full((1, 1, 1), value, dtype=np.uint8)
    assert to_depth(to_depth(image, 16), 8) == value
    assert to_depth(image, 16) == value * 257


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("method", ["opencv", "bilinear", "tensor"])
def test_transforms_keep_channels_and_depth(channels, method):
    image = pixels(channels)
    generator = np.random.default_rng(0)
    scene = Resize(10, 40, method)(HorizontalFlip(1)(scene_of(image), generator), generator)
    assert scene.image.shape == (10, 15, channels)
    # Each channel is what it would be alone.
    alone = Resize(10, 40, method).image(np.ascontiguousarray(image[:, ::-1, :1]))
    assert np.array_equal(scene.image[..., :1], alone)
    if method == "tensor":
        assert scene.image.max() <= 255
    else:
        assert scene.image.dtype == np.uint16


@pytest.mark.parametrize("channels", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("side", [15, 6])
def test_each_of_many_channels_is_resized_as_if_alone(channels, dtype, side):
    image = pixels(channels, dtype)
    together = Resize(side, 100).image(image)
    alone = [Resize(side, 100).image(image[..., k : k + 1]) for k in range(channels)]
    assert together.flags.c_contiguous
    # OpenCV's ways to interpolate channels together and alone round differently at times.
    assert np.abs(together.astype(int) - np.concatenate(alone, axis=2)).max() <= (1 if side == 15 else 0)


def test_what_opencv_makes_of_five_channels():
    """The trap: no average over areas of more than four; when this fails, the library has mended it."""
    with pytest.raises(cv2.error):
        cv2.resize(pixels(5), (7, 4), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("shape", [(1, 9, 3), (9, 1, 3), (9, 8, 1), (1, 1, 1)])
def test_a_npy_may_have_a_side_of_one_pixel_and_an_axis_of_one_channel(tmp_path, shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    np.save(tmp_path / "image.npy", image)
    assert np.array_equal(read_image(tmp_path / "image.npy", channels=shape[2]), image)


@pytest.mark.parametrize("shape", [(0, 9, 3), (9, 0, 3), (9, 8, 0)])
def test_a_npy_without_pixels_is_rejected(tmp_path, shape):
    np.save(tmp_path / "image.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"image\.npy: .*(is not an image|contains an array of shape)"):
        read_image(tmp_path / "image.npy", channels=3)


def test_a_npy_is_never_turned():
    file = io.BytesIO()
    np.save(file, pixels(5))
    image, turn = read_bands("image.npy", file.getvalue(), None, 10**6)
    assert turn == 1
    assert np.array_equal(image, pixels(5))
