import numpy as np
import pytest

from detection.data.transforms import Resize
from detection.engine.loading import largest_canvas


@pytest.mark.parametrize("method", ["opencv", "pillow", "tensor", "bilinear"])
@pytest.mark.parametrize("size", [(96, 129), (129, 96), (480, 640), (427, 640), (500, 333)])
def test_the_largest_canvas_holds_what_resizing_gives(size, method):
    """96 x 129 pixels at half the size have 64.5 columns, which each method rounds in its own way."""
    resize = Resize(48, 80, method)
    image = resize.image(np.zeros((*size, 3), np.uint8))
    canvas = largest_canvas(np.array([size, (10, 10)]), resize)
    alone = largest_canvas(np.array([size]), resize)
    assert canvas == (max(alone[0], 64), max(alone[1], 64))  # 10 x 10 pixels become 48 x 48
    assert all(side - 32 < pixels <= side for pixels, side in zip(image.shape[:2], alone, strict=True))


def test_a_side_that_is_rounded_up_begins_another_piece_of_the_canvas():
    assert largest_canvas(np.array([(96, 129)]), Resize(48, 80)) == (64, 96)


def test_without_images_a_canvas_is_the_smallest():
    assert largest_canvas(np.zeros((0, 2), np.int64), Resize(48, 80)) == (32, 32)
