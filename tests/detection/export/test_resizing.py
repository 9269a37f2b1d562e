"""The resizing of an exported file gives the pixels of the toolkit's own resizing."""

import numpy as np
import pytest
import torch

from detection.data.transforms import Resize
from detection.export.resizing import Resizing, new_sides

SIDES = [(37, 53), (120, 90), (64, 64), (333, 217), (411, 530), (1, 200), (150, 1), (1, 1), (288, 384), (192, 256)]
TEST_SIZE = (96, 160)


def both(image, method, test_size=TEST_SIZE):
    """The resized image (h, w, C) of the toolkit, and of the module."""
    reference = Resize(*test_size, method).image(image)
    canvas, sizes = Resizing(*test_size, method, 32)(torch.from_numpy(image[None]))
    rows, columns = sizes[0].tolist()
    assert (rows, columns) == reference.shape[:2]
    assert canvas.shape[2:] == (-(-rows // 32) * 32, -(-columns // 32) * 32)
    return reference, canvas[0, :, :rows, :columns].permute(1, 2, 0).numpy()


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("method", ["bilinear", "pillow"])
def test_the_pixels_are_equal(sides, method):
    reference, found = both(noise(*sides, 3), method)
    np.testing.assert_array_equal(found, reference)


@pytest.mark.parametrize("sides", SIDES)
def test_the_pixels_of_opencv_are_equal_but_for_the_rounding_of_means(sides):
    reference, found = both(noise(*sides, 3), "opencv")
    difference = np.abs(found.astype(int) - reference)
    assert difference.max(initial=0) <= 1
    means = 4 * reference.shape[0] * reference.shape[1] < sides[0] * sides[1]
    assert (difference > 0).mean() <= (0.002 if means else 0)


@pytest.mark.parametrize("sides", SIDES)
def test_the_pixels_of_torch_are_equal_up_to_rounding(sides):
    reference, found = both(noise(*sides, 3), "tensor")
    np.testing.assert_allclose(found, reference, atol=1e-2)


@pytest.mark.parametrize("method", ["opencv", "bilinear", "tensor"])
@pytest.mark.parametrize("channels", [1, 6])
def test_16_bits_and_other_channels(method, channels):
    for sides in ((60, 80), (400, 500)):
        reference, found = both(noise(*sides, channels, dtype=np.uint16), method)
        difference = np.abs(found.astype(float) - reference)
        assert difference.max() <= (0.01 if method == "tensor" else 1)


@pytest.mark.parametrize("method", ["opencv", "pillow", "tensor"])
@pytest.mark.parametrize("test_size", [(800, 1333), (320, 640), (96, 160)])
def test_the_sides_are_equal(method, test_size):
    rng = np.random.default_rng(0)
    resize = Resize(*test_size, method)
    for height, width in [(222, 372), *(rng.integers(1, 4000, (2000, 2))).tolist()]:
        old = [torch.full((), side, dtype=torch.float64) for side in (height, width)]
        assert tuple(int(x) for x in new_sides(old, *test_size, method)) == resize.size(height, width)
