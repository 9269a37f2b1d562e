import numpy as np
import pytest

from detection.evaluation.ground_truth import clean_ground_truth
from detection.evaluation.voc import area_under, voc_ap50


def truth(*boxes, crowd=()):
    return clean_ground_truth(
        {
            "images": [{"id": 1, "height": 100, "width": 100}, {"id": 2, "height": 100, "width": 100}],
            "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
            "annotations": [
                {"id": k, "image_id": 1, "category_id": 3, "bbox": box, "iscrowd": int(k in crowd)}
                for k, box in enumerate(boxes)
            ],
        },
        masks=False,
    )


def found(box, score, image=1, category=3):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_by_hand():
    # Right, wrong, right of two objects: precision 1 up to recall 1/2, 2/3 up to 1.
    results = [found([0, 0, 10, 10], 0.9), found([50, 0, 9, 9], 0.8), found([20, 20, 10, 10], 0.7)]
    assert voc_ap50(truth([0, 0, 10, 10], [20, 20, 10, 10]), results) == {3: pytest.approx(0.5 + 0.5 * 2 / 3)}


def test_an_object_is_found_once_and_by_whoever_overlaps_it_most():
    # The second detection overlaps the first object most, which is taken: wrong here, right for COCO.
    objects = truth([0, 0, 10, 10], [3, 0, 10, 10])
    results = [found([0, 0, 10, 10], 0.9), found([1, 0, 10, 10], 0.8)]
    assert voc_ap50(objects, results) == {3: pytest.approx(0.5)}


def test_crowds_are_neither_right_nor_wrong():
    results = [found([50, 50, 20, 20], 0.95), found([0, 0, 10, 10], 0.9)]
    assert voc_ap50(truth([0, 0, 10, 10], [50, 50, 20, 20], crowd=[1]), results) == {3: 1.0}


def test_nothing_found_is_zero_and_nothing_to_find_is_left_out():
    assert voc_ap50(truth([0, 0, 10, 10]), []) == {3: 0.0}
    assert voc_ap50(truth(), [found([0, 0, 5, 5], 0.5)]) == {}


def test_detections_in_images_without_objects_are_wrong():
    results = [found([0, 0, 10, 10], 0.9, image=2), found([0, 0, 10, 10], 0.8)]
    assert voc_ap50(truth([0, 0, 10, 10]), results) == {3: pytest.approx(0.5)}


def test_area_is_that_of_the_monotone_curve():
    generator = np.random.default_rng(0)
    for _ in range(20):
        right = generator.random(30) < 0.5
        objects = int(right.sum()) + 3
        hits = right.cumsum()
        precision, recall = hits / np.arange(1, 31), hits / objects
        plain = sum(precision[k:].max() / objects for k in range(30) if right[k])
        assert area_under(right, objects) == pytest.approx(plain)
        assert recall[-1] < 1


@pytest.mark.parametrize(("width", "precision"), [(5, 1.0), (4.9, 0.0)])
def test_half_of_the_union_is_enough(width, precision):
    assert voc_ap50(truth([0, 0, 10, 10]), [found([0, 0, width, 10], 0.9)]) == {3: precision}


def test_classes_and_images_are_apart():
    objects = truth([0, 0, 10, 10], [20, 20, 10, 10])
    objects["annotations"][1] |= {"category_id": 4, "image_id": 2}
    results = [found([0, 0, 10, 10], 0.5), found([20, 20, 10, 10], 0.6), found([20, 20, 10, 10], 0.4, 2, 4)]
    assert voc_ap50(objects, results) == {3: pytest.approx(0.5), 4: 1.0}


def test_the_first_of_equal_scores_comes_first():
    results = [found([0, 0, 10, 10], 0.5), found([1, 0, 10, 10], 0.5)]
    assert voc_ap50(truth([0, 0, 10, 10]), results) == {3: 1.0}
    assert voc_ap50(truth([0, 0, 10, 10]), results[::-1]) == {3: 1.0}
