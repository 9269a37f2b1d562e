"""Matches of segments at their limits; :mod:`tests.detection.evaluation.test_maps` compares random ones with loops."""

import numpy as np
import pytest

from detection.evaluation.panoptic import IOU, MATCHED, MISSED, WRONG, compare, per_class, summed
from detection.ops.panoptic import Segment

TRUTH = [Segment(1, 0, True), Segment(2, 1, True)]


def row(*ids: int) -> np.ndarray:
    return np.array([ids], np.int32)


def test_half_an_overlap_is_no_match():
    truth = row(1, 1, 1, 2, 2, 2)
    half = compare(truth, TRUTH, row(0, 5, 5, 5, 0, 0), [Segment(5, 0, True)], 2, 3)
    assert half.tolist() == [[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    more = compare(truth, TRUTH, row(5, 5, 5, 5, 0, 0), [Segment(5, 0, True)], 2, 3)
    assert more.tolist() == [[3 / 4, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(("ignored", "wrong"), [(1, 1), (2, 1), (3, 0)])
@pytest.mark.parametrize("crowd", [False, True])
def test_a_segment_is_wrong_unless_more_than_half_of_it_has_no_truth_or_is_a_crowd(ignored, wrong, crowd):
    """Four pixels of class 0, of which some are on class 1."""
    segments = [*TRUTH[1:], Segment(7, 0, True, is_crowd=True)]
    truth = row(*[7 if crowd else 0] * ignored, *[2] * (4 - ignored))
    found = compare(truth, segments, row(5, 5, 5, 5), [Segment(5, 0, True)], 2, 3)
    assert found[0].tolist() == [0, 0, wrong, 0]


def test_segments_of_another_class_do_not_match_and_predictions_without_pixels_do_not_count():
    truth, segments = row(1, 1, 2, 2), [Segment(1, 0, True), Segment(2, 1, False)]
    predicted = [Segment(5, 1, True), Segment(6, 1, False), Segment(9, 0, True)]
    found = compare(truth, segments, row(5, 5, 6, 6), predicted, 2, 4)
    assert found[:, MATCHED].tolist() == [0, 0, 1, 0]  # the first class of stuff comes behind the objects
    assert found[:, IOU].tolist() == [0, 0, 1, 0]
    assert found[:, WRONG].tolist() == [0, 1, 0, 0]
    assert found[:, MISSED].tolist() == [1, 0, 0, 0]


def test_a_class_with_misses_or_wrong_segments_alone_has_a_quality_of_zero():
    with np.errstate(all="raise"):
        found = per_class(np.array([[0, 0, 1, 0], [0, 0, 0, 1], [0.75, 1, 0, 1], [0, 0, 0, 0]], float))
    assert found[:3].tolist() == [[0, 0, 0], [0, 0, 0], [0.5, 0.75, 2 / 3]]
    assert np.isnan(found[3]).all()


def test_counts_of_images_are_added():
    assert summed([np.ones((2, 4)), np.full((2, 4), 2.0)], 2).tolist() == [[3.0] * 4] * 2
    assert summed([], 3).tolist() == [[0.0] * 4] * 3
