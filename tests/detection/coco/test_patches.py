"""Masks in windows of their image against whole bitmaps."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.coco.bitmaps import bitmap_bounds
from detection.coco.patches import Patch, bitmap_to_patch, patch_to_rle, rle_to_patch
from tests.detection.coco.test_rle import masks, packed


def whole(patch: Patch, shape: tuple[int, int]) -> np.ndarray:
    drawn = np.zeros(shape, dtype=bool)
    drawn[patch.place] = patch.pixels
    return drawn


def test_a_patch_is_the_smallest_window_with_all_pixels_of_its_mask():
    for mask in [*masks(150), np.zeros((4, 5), np.uint8), np.ones((4, 5), np.uint8)]:
        for patch in (rle_to_patch(packed(mask)), bitmap_to_patch(mask.astype(bool))):
            assert np.array_equal(whole(patch, mask.shape), mask)
            assert patch.pixels.dtype == bool
        left, top, right, bottom = bitmap_bounds(mask) or (0, 0, 0, 0)
        small = bitmap_to_patch(mask.astype(bool))
        assert (small.top, small.left, *small.pixels.shape) == (top, left, bottom - top, right - left)
        fitted = rle_to_patch(packed(mask))
        assert (fitted.left, fitted.pixels.shape[1]) == (left, right - left)  # a run over two columns has all rows
        assert fitted.pixels.shape[0] <= mask.shape[0]


@pytest.mark.parametrize(
    ("counts", "place"),
    [
        ([1, 2, 1], (1, 0, 2, 1)),  # inside the first column of four rows
        ([1, 2, 2, 2, 1], (1, 0, 2, 2)),
        ([1, 3, 4], (1, 0, 3, 1)),  # up to the end of the column
        ([1, 4, 3], (0, 0, 4, 2)),  # over the end
        ([4, 4], (0, 1, 4, 1)),
        ([5, 1, 0, 1, 1], (1, 1, 2, 1)),  # an empty run between
        ([8], (0, 0, 0, 0)),
        ([3, 0, 5], (0, 0, 0, 0)),
    ],
)
def test_runs_of_columns_of_four(counts, place):
    columns = sum(counts) // 4
    patch = rle_to_patch({"size": [4, columns], "counts": counts})
    assert (patch.top, patch.left, *patch.pixels.shape) == place
    drawn = np.repeat(np.arange(len(counts)) % 2, counts).reshape(columns, 4).T
    assert np.array_equal(whole(patch, (4, columns)), drawn)


def test_a_window_shows_its_part_of_the_mask():
    for mask in masks(40, seed=3):
        patch, shape = bitmap_to_patch(mask.astype(bool)), mask.shape
        padded = np.pad(mask.astype(bool), 20)
        for top, left, height, width in np.random.default_rng(0).integers([-4, -4, 0, 0], [12, 12, 8, 8], (30, 4)):
            expected = padded[20 + top : 20 + top + height, 20 + left : 20 + left + width]
            assert np.array_equal(patch.window(top, left, height, width), expected), shape


def test_a_patch_becomes_the_rle_of_its_mask():
    for mask in masks(150, seed=4):
        height, width = mask.shape
        patch = bitmap_to_patch(mask.astype(bool))
        assert np.array_equal(coco_mask.decode(patch_to_rle(patch, height, width)), mask)
        grown = patch_to_rle(patch, height + 3, width + 2)
        assert np.array_equal(coco_mask.decode(grown), np.pad(mask, ((0, 3), (0, 2))))
