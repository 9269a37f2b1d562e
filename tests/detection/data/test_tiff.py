"""Every kind of TIFF equals the same image saved as PNG, or is rejected by name."""

import io
import struct
import zlib
from itertools import product

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data.errors import ImageError
from detection.data.image import image_size, orientation, read_image, turned
from detection.data.tiff import first_page
from detection.data.tiff_pixels import _divided, tiff_samples

HEIGHT, WIDTH = 37, 50
SHORT, LONG = 3, 4


def picture(channels: int, bits: int = 8) -> np.ndarray:
    """(37, 50, channels) of smooth and noisy values over the whole range."""
    white = 2**bits - 1
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = [(x * 5 + y * 3 * k) % 256 / 255 for k in range(1, channels + 1)]
    noise = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH, channels))
    return np.minimum(np.stack(smooth, axis=-1) * white + noise, white).astype(np.uint8 if bits <= 8 else np.uint16)


def written(path, fields, segments, order="<"):
    """A TIFF of one page: {tag: (type, values)}, a tag may be (number, "again"); offsets and lengths are filled in."""
    tiled = any(tag in fields for tag in (322, 323))
    at = 8
    offsets = [at + sum(map(len, segments[:k])) for k in range(len(segments))]
    fields = {
        324 if tiled else 273: (LONG, offsets), 325 if tiled else 279: (LONG, [len(s) for s in segments]), **fields,
    }  # fmt: skip
    entries, rest = b"", b""
    start = at + sum(map(len, segments))
    lists_at = start + 2 + 12 * len(fields) + 4
    for tag, (kind, values) in fields.items():
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        number = tag[0] if isinstance(tag, tuple) else tag
        entries += struct.pack(order + "HHI", number, kind, len(values))
        if len(packed) > 4:
            entries, rest = entries + struct.pack(order + "I", lists_at + len(rest)), rest + packed
        else:
            entries += packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    body = head + b"".join(segments) + struct.pack(order + "H", len(fields)) + entries + b"\0" * 4 + rest
    path.write_bytes(body)
    return path


def gray_fields(**more) -> dict:
    fields = {
        256: (LONG, [WIDTH]), 257: (LONG, [HEIGHT]), 258: (SHORT, [8]), 259: (SHORT, [1]), 262: (SHORT, [1]),
        277: (SHORT, [1]), 278: (LONG, [HEIGHT]),
    }  # fmt: skip
    return fields | {int(tag[1:]): value for tag, value in more.items()}


def png_reads(folder, image) -> dict:
    """What a PNG of this image gives, by channels and depth."""
    path = folder / "expected.png"
    cv2.imwrite(str(path), image[..., ::-1] if image.shape[2] == 3 else image)
    return {(c, d): read_image(path, channels=c, depth=d) for c, d in product((1, 3), (8, 16))}


def equals_png(path, image, tolerance=0, reads=None):
    """The file, read in each way, is what a PNG of this image gives, read in the same way."""
    for (channels, depth), expected in (reads or png_reads(path.parent, image)).items():
        found = read_image(path, (HEIGHT, WIDTH), channels=channels, depth=depth)
        # From colors to gray, OpenCV rounds differently for PNG and for arrays.
        rounding = tolerance + (1 if channels == 1 and image.shape[2] == 3 else 0)
        assert found.dtype == expected.dtype
        assert np.abs(found.astype(int) - expected).max() <= rounding * (257 if depth == 16 else 1)
    assert image_size(path) == (HEIGHT, WIDTH)


def colours(stored: np.ndarray, photometric: str, extra: str | None, palette: np.ndarray) -> np.ndarray:
    """The image that a person sees, computed slowly."""
    white = int(np.iinfo(stored.dtype).max)
    if photometric == "palette":
        return (palette[:, stored[..., 0]] // 257).transpose(1, 2, 0).astype(np.uint8)
    image = stored.astype(np.int64)
    if extra == "assocalpha":
        opacity = image[..., -1:]
        image = np.where(opacity == 0, image, np.minimum(image * white // np.maximum(opacity, 1), white))
    if photometric == "separated":
        ink = image[..., :4] / white
        return np.round((1 - ink[..., :3]) * (1 - ink[..., 3:]) * white).astype(stored.dtype)
    image = image[..., : 3 if photometric == "rgb" else 1]
    return (white - image if photometric == "miniswhite" else image).astype(stored.dtype)


ORDERS = (("<", False), (">", True), (">", False), ("<", True))
LAYOUTS = ({"rowsperstrip": 8}, {"rowsperstrip": HEIGHT}, {"tile": (16, 32)}, {"tile": (64, 64)})
PACKINGS = ({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True})


@pytest.mark.parametrize("all_orders", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [None, "unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize(
    ("photometric", "samples"), [("minisblack", 1), ("miniswhite", 1), ("palette", 1), ("rgb", 3), ("separated", 4)]
)
def test_every_combination_equals_the_same_image_as_png(tmp_path, all_orders, bits, extra, photometric, samples):
    tifffile = pytest.importorskip("tifffile")
    stored = picture(samples + (extra is not None), bits)
    palette = (np.random.default_rng(1).integers(0, 256, (3, 2**bits)) * 257).astype(np.uint16)
    options = {"photometric": photometric, "metadata": None}
    if extra is not None:
        options["extrasamples"] = [extra]
    if photometric == "palette":
        options["colormap"] = palette
    many = samples + (extra is not None) > 1
    told = None
    if photometric == "palette" and extra is not None:
        pytest.skip("no writer makes it")
    elif photometric == "palette" and bits == 16:
        told = "palette of 65536 colors"
    elif extra == "assocalpha" and photometric in ("miniswhite", "separated"):
        told = "premultiplied alpha in a color space other than RGB"
    elif extra == "unspecified" and photometric in ("minisblack", "miniswhite"):
        told = "has 2 channels, but model.backbone.in_channels is 3"
    path = tmp_path / "image.tif"
    planes = ("contig", "separate") if many else ("contig",)
    image = colours(stored, photometric, extra, palette)
    reads = png_reads(tmp_path, image)
    for number, (planar, layout, packing) in enumerate(product(planes, LAYOUTS, PACKINGS)):
        pixels = stored.transpose(2, 0, 1) if planar == "separate" else stored if many else stored[..., 0]
        plane = {"planarconfig": planar} if many else {}
        for order, big in ORDERS if all_orders else (ORDERS[number % 4],):
            tifffile.imwrite(path, pixels, **options, **layout, **packing, **plane, byteorder=order, bigtiff=big)
            if told is None:
                equals_png(path, image, reads=reads)
            else:
                with pytest.raises(ValueError, match=rf"image\.tif: .*{told}"):
                    read_image(path)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1, 3])
@pytest.mark.parametrize("tiled", [False, True])
def test_few_bits_equal_the_same_image_as_png(tmp_path, bits, order, photometric, tiled):
    stored = picture(1, 8)[..., 0] >> (8 - bits)
    colormap = np.random.default_rng(0).integers(0, 256, (3, 2**bits)) * 257
    fields = gray_fields(_258=(SHORT, [bits]), _262=(SHORT, [photometric]))
    if photometric == 3:
        fields[320] = SHORT, colormap.flatten().tolist()
    if tiled:
        fields |= {322: (SHORT, [32]), 323: (SHORT, [16])}
        padded = np.pad(stored, ((0, 48 - HEIGHT), (0, 64 - WIDTH)))
        parts = [padded[y : y + 16, x : x + 32] for y in (0, 16, 32) for x in (0, 32)]
    else:
        fields[278] = SHORT, [10]
        parts = [stored[y : y + 10] for y in range(0, HEIGHT, 10)]
    segments = []
    for part in parts:
        unpacked = (part[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        segments.append(np.packbits(unpacked.reshape(len(part), -1), axis=1).tobytes())
    path = written(tmp_path / "image.tif", fields, segments, order)
    expected = (stored * (255 // (2**bits - 1)))[..., None].astype(np.uint8)
    if photometric == 0:
        expected = 255 - expected
    if photometric == 3:
        expected = (colormap.T // 257).astype(np.uint8)[stored]
    equals_png(path, expected)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "group3", "group4"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_what_pillow_writes_equals_its_png(tmp_path, mode, compression):
    if compression in ("group3", "group4") and mode != "1":
        pytest.skip("fax has one bit")
    deep = mode == "I;16"
    image = Image.fromarray(picture(1, 16)[..., 0]) if deep else Image.fromarray(picture(3)).convert(mode)
    image.save(tmp_path / "image.tif", compression=compression)
    shown = image.convert("L") if mode == "1" else image if mode == "L" or deep else image.convert("RGB")
    pixels = np.asarray(shown)
    equals_png(tmp_path / "image.tif", pixels if pixels.ndim == 3 else pixels[..., None])


def test_a_gray_jpeg_keeps_its_one_channel():
    file = io.BytesIO()
    Image.new("L", (16, 8), 77).save(file, "TIFF", compression="jpeg")
    pixels = tiff_samples(file.getvalue(), first_page(file.getvalue(), 1000))
    assert pixels.shape == (8, 16, 1)
    assert (pixels == 77).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_jpeg_in_a_tiff(tmp_path, mode):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = Image.fromarray(np.stack([x * 5, y * 6, 255 - x * 5], axis=-1).clip(0, 255).astype(np.uint8))
    smooth.convert(mode).save(tmp_path / "image.tif", compression="jpeg", quality=95)
    expected = np.asarray(smooth.convert("L" if mode == "L" else "RGB"))
    equals_png(tmp_path / "image.tif", expected if expected.ndim == 3 else expected[..., None], tolerance=12)


def test_jpeg_in_a_tiff_is_turned_as_its_header_says(tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = Image.fromarray((x * 3 + y).astype(np.uint8))
    smooth.save(tmp_path / "image.tif", compression="jpeg", quality=95, tiffinfo={274: 6})
    stored = read_image(tmp_path / "image.tif", (HEIGHT, WIDTH), channels=1)
    assert np.abs(stored[..., 0].astype(int) - np.asarray(smooth)).max() <= 12
    assert np.array_equal(read_image(tmp_path / "image.tif", channels=1), turned(stored, 6))


@pytest.mark.parametrize("compression", [1, 8])
def test_bits_in_reversed_order(tmp_path, compression):
    stored = picture(1).tobytes().translate(bytes(int(f"{v:08b}"[::-1], 2) for v in range(256)))
    fields = gray_fields(_259=(SHORT, [compression]), _266=(SHORT, [2]))
    reverse = bytes(int(f"{v:08b}"[::-1], 2) for v in range(256))
    packed = zlib.compress(picture(1).tobytes()).translate(reverse) if compression == 8 else stored
    equals_png(written(tmp_path / "image.tif", fields, [packed]), picture(1))


@pytest.mark.parametrize("orientation_", range(1, 9))
def test_a_tiff_is_turned_as_its_header_says(tmp_path, orientation_):
    fields = gray_fields(_274=(SHORT, [orientation_]))
    path = written(tmp_path / "image.tif", fields, [picture(1).tobytes()])
    shown = turned(picture(1), orientation_)
    assert np.array_equal(read_image(path, channels=1), shown)
    assert np.array_equal(read_image(path, shown.shape[:2], channels=1), shown)
    assert orientation(path) == orientation_
    if orientation_ >= 5:
        assert np.array_equal(read_image(path, (HEIGHT, WIDTH), channels=1), picture(1))


@pytest.mark.parametrize(("bits", "kind"), [(32, 3), (16, 3), (64, 3), (8, 2), (16, 2), (32, 1), (12, 1)])
def test_other_numbers_are_rejected_by_name(tmp_path, bits, kind):
    fields = gray_fields(_258=(SHORT, [bits]), _339=(SHORT, [kind]))
    path = written(tmp_path / "image.tif", fields, [b"\0" * (HEIGHT * WIDTH * bits // 8 + 9)])
    with pytest.raises(ValueError, match=rf"image\.tif: has pixels of {bits} bits .*; save it with 8 or 16"):
        read_image(path)


def test_a_stack_is_rejected_by_name(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for number in (2, 3):
        stack = np.stack([picture(1)[..., 0]] * number)
        tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
        with pytest.raises(ValueError, match=rf"stack\.tif: contains {number} images, .*; save each page as an image"):
            read_image(tmp_path / "stack.tif")
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True)
    with pytest.raises(ValueError, match=r"imagej\.tif: contains 3 images"):
        read_image(tmp_path / "imagej.tif")


@pytest.mark.parametrize("subfile", [1, 4, 0])
def test_thumbnails_masks_and_smaller_levels_are_no_lost_pages(tmp_path, subfile):
    tifffile = pytest.importorskip("tifffile")
    image = picture(1)[..., 0]
    with tifffile.TiffWriter(tmp_path / "image.tif") as file:
        file.write(image, photometric="minisblack")
        small = image[::2, ::2] if subfile == 0 else image[:10] > 99 if subfile == 4 else image[:10]
        file.write(small, photometric="minisblack", subfiletype=subfile)
    equals_png(tmp_path / "image.tif", picture(1))
    with tifffile.TiffWriter(tmp_path / "image.tif") as file:
        file.write(image, photometric="minisblack")
        file.write(image[:10], photometric="minisblack")  # of another shape: a page of its own
    with pytest.raises(ValueError, match="contains 2 images"):
        read_image(tmp_path / "image.tif")


ATTACKS = {
    "height twice": ({(257, "again"): (LONG, [60_000])}, "field ImageLength twice"),
    "width twice": ({(256, "again"): (LONG, [60_000])}, "field ImageWidth twice"),
    "any field twice": ({305: (SHORT, [1]), (305, "again"): (SHORT, [1])}, "field 305 twice"),
    "depth": ({32997: (LONG, [60_000])}, "volume"),
    "depth of tiles": ({32998: (LONG, [60_000])}, "volume"),
    "two heights": ({257: (LONG, [HEIGHT, 60_000])}, "ImageLength has 2 values instead of 1"),
    "height as a fraction": ({257: (5, [HEIGHT])}, "header"),
    "huge": ({256: (LONG, [60_000]), 257: (LONG, [60_000])}, "claims 60000 x 60000 pixels"),
    "samples": ({277: (SHORT, [65_535])}, "65535 channels|cut short|header"),
    "bits": ({258: (SHORT, [65_535])}, "header"),
    "bits differ": ({258: (SHORT, [8, 16, 8])}, "a different BitsPerSample per sample"),
    "tile": ({322: (LONG, [1 << 20]), 323: (LONG, [1 << 20])}, "claims tiles of 1048576 x 1048576"),
    "flat tile": ({322: (LONG, [0]), 323: (LONG, [16])}, "has no pixels"),
    "strips": ({278: (LONG, [1])}, "1 offset, 1 length, but the image needs 37"),
    "place": ({273: (LONG, [4_000_000_000])}, "cut short"),
    "length": ({279: (LONG, [4_000_000_000])}, "cut short"),
    "no length": ({279: (LONG, []), 259: (SHORT, [5])}, "0 lengths, but the image needs 1"),
    "compression": ({259: (SHORT, [6])}, "unsupported compression"),
    "predictor": ({259: (SHORT, [8]), 317: (SHORT, [3])}, "predictor 3"),
    "lab": ({262: (SHORT, [8]), 277: (SHORT, [3])}, "photometric 8"),
    "too few samples": ({262: (SHORT, [2])}, "1 sample per pixel"),
    "no photometric": ({262: (SHORT, [])}, "PhotometricInterpretation has 0 values instead of 1"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_headers_that_could_be_read_in_two_ways_are_rejected_by_name(tmp_path, name):
    fields, told = ATTACKS[name]
    path = written(tmp_path / "image.tif", gray_fields() | fields, [picture(1).tobytes()])
    with pytest.raises(ValueError, match=rf"image\.tif: .*({told})") as caught:
        read_image(path)
    assert len(str(caught.value).replace(str(path), "")) < 200


def test_pages_in_a_circle_are_rejected(tmp_path):
    path = written(tmp_path / "image.tif", gray_fields(), [picture(1).tobytes()])
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    end = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    data[end : end + 4] = struct.pack("<I", start)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"image\.tif: its list of pages is circular"):
        read_image(path)


@pytest.mark.parametrize("name", ["tiff_gray_polarity", "tiff_stack_of_three"])
def test_real_cases(shared_data, name):
    folder = shared_data.parent / "cases" / name
    if not folder.is_dir():
        pytest.skip(f"no such case: {folder}")
    for path in sorted(folder.glob("*.tif")):
        if "stack" in name:
            with pytest.raises(ValueError, match="contains 3 images"):
                read_image(path)
        else:
            image = read_image(path)
            assert (int(image[0, 0, 0]), int(image[0, -1, 0])) == (0, 255)


@pytest.mark.parametrize("side", [256, 257])
def test_a_page_without_pixels_is_rejected_whoever_asks(tmp_path, side):
    data = written(tmp_path / "image.tif", gray_fields() | {side: (LONG, [0])}, [picture(1).tobytes()]).read_bytes()
    with pytest.raises(ImageError, match=r"its header is broken \(it claims .* pixels\)"):
        first_page(data, 10_000)


def test_colors_under_no_opacity_are_left_as_they_are():
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 60]]], np.uint8)
    with np.errstate(all="raise"):
        assert _divided(pixels).tolist() == [[[10, 20, 30], [42, 85, 127]]]
