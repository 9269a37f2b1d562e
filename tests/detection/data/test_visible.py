"""Bounds of the visible part of masks, beside masks that are drawn pixel by pixel."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.data.visible import NOTHING, _bounds_of_rle, _holds, visible_boxes


def rle_of(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def bounds(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (25, 25)])
@pytest.mark.parametrize("seed", range(8))
def test_an_rle_in_a_window_of_whole_pixels(shape, seed):
    generator = np.random.default_rng(seed)
    mask = generator.random(shape) < 0.02
    left, right = sorted(generator.choice(shape[1] + 1, 2, replace=False).tolist())
    top, bottom = sorted(generator.choice(shape[0] + 1, 2, replace=False).tolist())
    shown = np.zeros(shape, dtype=bool)
    shown[top:bottom, left:right] = mask[top:bottom, left:right]
    found = _bounds_of_rle(rle_of(mask), np.array([left, top, right, bottom], dtype=np.float64))
    assert found.tolist() == (bounds(shown) if shown.any() else NOTHING.tolist())


@pytest.mark.parametrize("flipped", [False, True])
def test_an_rle_is_cut_at_the_fractions_of_a_window(flipped):
    mask = np.zeros((40, 8), dtype=bool)
    mask[30:36, 2:7] = True
    window, expected = [0.0, 10.5, 6.5, 35.25], [2, 30, 6.5, 35.25]
    if flipped:
        mask, window, expected = mask.T, [*window[1::-1], *window[:1:-1]], [*expected[1::-1], *expected[:1:-1]]
    assert _bounds_of_rle(rle_of(mask), np.array(window)).tolist() == expected


def test_points_in_polygons_by_the_even_odd_rule():
    """A square with a square hole, drawn as one polygon, and a triangle."""
    ring = np.array([[0, 0], [9, 0], [9, 9], [0, 9], [0, 0], [3, 3], [6, 3], [6, 6], [3, 6], [3, 3]], dtype=np.float64)
    triangle = np.array([[10, 0], [14, 0], [10, 8]], dtype=np.float64)
    start = np.concatenate([ring, triangle])
    step = np.concatenate([np.roll(ring, -1, axis=0), np.roll(triangle, -1, axis=0)]) - start
    points = np.array([[1.5, 4.5], [4.5, 4.5], [11, 2], [13.5, 7], [-1, 4]])
    held = _holds(start, step, np.array([0, len(ring)]), points)
    assert held.tolist() == [[True, False, False, False, False], [False, False, True, False, False]]


def test_a_polygon_around_the_window_fills_it():
    around = [np.array([[-10.0, -10.0], [50.0, -10.0], [50.0, 50.0], [-10.0, 50.0]])]
    beside = [np.array([[20.0, 20.0], [30.0, 20.0], [30.0, 30.0]])]
    window = np.array([1.0, 2.0, 9.0, 7.0])
    expected = np.stack([window, NOTHING, window])
    assert np.array_equal(visible_boxes([around, beside, None], window), expected)
