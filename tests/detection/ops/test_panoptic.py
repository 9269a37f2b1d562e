"""Merging objects and stuff, beside a loop over pixels."""

import numpy as np
import pytest

from detection.coco.patches import bitmap_to_patch
from detection.ops.panoptic import Segment, merge


def slow(masks, scores, labels, semantic, overlap, stuff_area, score):
    """One pixel after another, as the paper describes it."""
    height, width = semantic.shape
    taken: dict[tuple[int, int], int] = {}
    segments = []
    for i in sorted(range(len(masks)), key=lambda i: -scores[i]):
        own = [(y, x) for y in range(height) for x in range(width) if masks[i][y, x]]
        hidden = [place for place in own if place in taken]
        if scores[i] < score or not own or len(hidden) / len(own) > overlap:
            continue
        segments.append((len(segments) + 1, int(labels[i]), True))
        taken |= {place: len(segments) for place in own if place not in taken}
    for label in range(1, int(semantic.max()) + 1):
        own = [(y, x) for y in range(height) for x in range(width) if semantic[y, x] == label and (y, x) not in taken]
        if own and len(own) >= stuff_area:
            segments.append((len(segments) + 1, label, False))
            taken |= dict.fromkeys(own, len(segments))
    return [[taken.get((y, x), 0) for x in range(width)] for y in range(height)], segments


@pytest.mark.parametrize("seed", range(25))
def test_merging_is_a_loop_over_pixels(seed):
    generator = np.random.default_rng(seed)
    height, width, count = 20, 26, int(generator.integers(7))
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        top, left = generator.integers(0, 15, 2)
        rows, columns = generator.integers(0, 14, 2)
        mask[top : top + rows, left : left + columns] = True
    scores = generator.choice([0.2, 0.5, 0.7, 0.7, 0.9], count)
    labels = generator.integers(0, 3, count)
    semantic = generator.integers(0, 4, (height, width)).astype(np.uint8)
    options = (float(generator.choice([0.3, 0.5])), int(generator.choice([1, 80, 120])), 0.5)
    ids, segments = merge([bitmap_to_patch(mask) for mask in masks], scores, labels, semantic, *options)
    expected, expected_segments = slow(masks, scores, labels, semantic, *options)
    assert ids.tolist() == expected
    assert [one[:3] for one in segments] == expected_segments


def test_an_object_half_hidden_stays_and_one_pixel_more_is_too_much():
    first, half, more = np.zeros((3, 1, 8), bool)
    first[0, :4], half[0, 2:6], more[0, 1:5] = True, True, True
    semantic = np.zeros((1, 8), np.uint8)
    for second, kept in ((half, 2), (more, 1)):
        masks = [bitmap_to_patch(first), bitmap_to_patch(second)]
        _, segments = merge(masks, np.array([0.9, 0.8]), np.array([0, 1]), semantic)
        assert len(segments) == kept


def test_only_stuff_and_nothing_at_all():
    nothing = np.zeros(0), np.zeros(0, int)
    ids, segments = merge([], *nothing, np.ones((70, 70), np.uint8))
    assert segments == [Segment(1, 1, False)]
    assert (ids == 1).all()
    ids, segments = merge([], *nothing, np.ones((60, 60), np.uint8))  # 3600 pixels are fewer than 4096
    assert (segments, ids.any()) == ([], False)
