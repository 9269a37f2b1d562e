"""Images resized as a batch, compared with OpenCV one by one."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detection.data.transforms import Resize
from detection.ops.resize import resize_images


@pytest.mark.parametrize("wanted", [(90, 140), (64, 37), (41, 40), (20, 31), (64, 80)])
def test_as_opencv_does_to_one_level(wanted):
    generator = np.random.default_rng(0)
    image = cv2.GaussianBlur(generator.integers(0, 255, (64, 80, 3), np.uint8), (5, 5), 1)
    shrinks = wanted[0] < 32 and wanted[1] < 40
    expected = cv2.resize(image, wanted[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    canvas = torch.zeros(2, 3, 100, 100, dtype=torch.uint8)
    canvas[1, :, :64, :80] = torch.from_numpy(image).permute(2, 0, 1)
    found = resize_images(canvas, [(100, 100), (64, 80)], [(96, 96), wanted], (128, 160))
    assert found.shape == (2, 3, 128, 160)
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)
    ours = found[1, :, : wanted[0], : wanted[1]].permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 1
    assert found[1].sum() == ours.sum(dtype=np.int64)  # nothing beyond the image


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 120), st.integers(2, 120), st.integers(1, 70), st.integers(8, 128))
@example(1002, 118, 100, 500)  # by 0.499: 118 pixels to 59, which is no less than half
@example(1, 100, 10, 20)
def test_device_and_host_resize_by_the_same_method(height, width, short, long):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 1), np.uint8)
    resize = Resize(short, long)
    expected = resize.image(image)
    rows, columns = size = resize.size(height, width)
    canvas = (-(-rows // 32) * 32, -(-columns // 32) * 32)
    found = resize_images(torch.from_numpy(image).permute(2, 0, 1)[None], [(height, width)], [size], canvas)
    ours = found[0, :, :rows, :columns].permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("wanted", [(16, 30), (8, 20), (3, 5)])
def test_a_flipped_image_equals_the_flip_of_the_result(wanted):
    images = torch.randint(0, 255, (2, 3, 8, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = resize_images(images, [(8, 20), (8, 16)], [wanted, (8, 16)], (32, 32), [True, False])
    height, width = wanted
    expected = resize_images(images.flip(-1), [(8, 20)] * 2, [wanted] * 2, (32, 32))[0, :, :height, :width]
    assert (found[0, :, :height, :width].int() - expected.int()).abs().max() <= 1
    assert torch.equal(found[1, :, :8, :16], images[1, :, :, :16])
    assert not found[0, :, height:].any()
    assert not found[0, :, :, width:].any()


def test_sixteen_bits_stay_sixteen_bits():
    image = torch.full((1, 1, 8, 8), 65535, dtype=torch.int32).to(torch.uint16)
    found = resize_images(image, [(8, 8)], [(12, 20)], (32, 32))
    assert found.dtype == torch.uint16
    assert (found[0, 0, :12, :20].int() == 65535).all()
