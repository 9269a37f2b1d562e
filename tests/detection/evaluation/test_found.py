"""Detections of result files: which are sound, and the boxes around them."""

import math

import numpy as np
import pytest

from detection.evaluation.found import box_of, checked_counts, sound_boxes, whole_masks

COUNTS = "52203"
"""Pixels 5, 6, 9 and 10 of 4 x 4, down the columns."""


def test_the_box_of_a_result_is_its_own_or_around_its_keypoints_or_its_mask():
    mask = {"size": [4, 4], "counts": COUNTS}
    assert box_of({"bbox": (1, 2, 3, 4), "keypoints": [9, 9, 1], "segmentation": mask}) == [1, 2, 3, 4]
    assert box_of({"keypoints": [3, 9, 0, 7, 4, 2, 5, 5, 1], "segmentation": mask}) == [3, 4, 4, 5]
    assert box_of({"keypoints": []}) == [0] * 4
    assert box_of({"segmentation": mask}) == [1, 1, 2, 2]


def test_a_box_is_sound_if_its_numbers_are_finite_and_its_size_is_not_negative():
    boxes = np.array(
        [[1, 2, 3, 4], [1, 2, 1, 2], [1, 2, 0.5, 4], [1, 2, 3, 1], [1, math.nan, 3, 4], [0, 0, math.inf, 1]]
    )
    assert sound_boxes(boxes, np.zeros(6)).tolist() == [True, True, False, False, False, False]
    assert sound_boxes(boxes[:2], np.array([math.nan, -math.inf])).tolist() == [False, False]


def test_images_whose_masks_are_all_valid_need_no_check_of_each():
    sizes = {1: (4, 4), 2: (4, 4), 3: (4, 5), 4: (0, 4), 5: (4, 4), 6: (4, 4), 7: (4, 4)}
    good, short = {"size": [4, 4], "counts": COUNTS}, {"size": [4, 4], "counts": "5220"}
    images = {
        1: [(0.5, 1, good), (0.4, 1, good)],
        2: [(0.5, 1, good), (0.4, 1, short)],
        3: [(0.5, 1, good)],  # of another size
        4: [(0.5, 1, {"size": [0, 4], "counts": ""})],
        5: [(0.5, 1, good | {"counts": COUNTS.encode()})],
        6: [],
        7: [(0.5, 1, {"size": (4, 4), "counts": COUNTS})],
    }
    assert whole_masks(images, sizes) == {1, 6, 7}


@pytest.mark.parametrize("counts", [COUNTS, COUNTS.encode(), [5, 2, 2, 2, 5]])
def test_counts_of_a_mask_become_compressed_text(counts):
    assert checked_counts(3, {"size": [4, 4], "counts": counts}, 4, 4) == COUNTS


def test_a_mask_that_does_not_fit_its_image_is_rejected():
    with pytest.raises(ValueError, match=r"image 3: RLE of size \[4, 4\], but the image is 4 x 5"):
        checked_counts(3, {"size": [4, 4], "counts": COUNTS}, 4, 5)
    with pytest.raises(ValueError, match="image 3: "):
        checked_counts(3, {"size": [4, 4], "counts": [5, 2]}, 4, 4)
