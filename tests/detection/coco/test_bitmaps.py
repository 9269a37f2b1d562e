"""Bounds of masks."""

import numpy as np

from detection.coco.bitmaps import bitmap_bounds


def test_the_bounds_hold_every_pixel_and_touch_one_on_each_side():
    generator = np.random.default_rng(0)
    for _ in range(200):
        mask = generator.random(generator.integers(1, 9, 2)) < 0.2
        bounds = bitmap_bounds(mask)
        if bounds is None:
            assert not mask.any()
            continue
        left, top, right, bottom = bounds
        part = mask[top:bottom, left:right]
        assert part.sum() == mask.sum()
        assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()  # noqa: PT018
