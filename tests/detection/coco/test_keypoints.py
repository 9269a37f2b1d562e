import json

import numpy as np
import pytest

from detection.categories import Categories, Skeleton
from detection.coco import keypoints
from detection.coco.annotations import load_annotations
from tests.support.keypoints import CATEGORIES, person, write_people


def reported(path) -> dict[str, int]:
    return load_annotations(path).report.counts


def test_keypoints_are_read_at_the_centres_of_their_pixels(tmp_path):
    annotations = load_annotations(write_people(tmp_path))
    assert annotations.categories.skeletons == (
        Skeleton(),
        Skeleton(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2))),
    )
    assert annotations.categories.keypoints == 3
    assert annotations.keypoints(0).tolist() == [
        [[12.5, 22.5, 2], [20.5, 24.5, 1], [0, 0, 0]],
        [[0, 0, 0]] * 3,
    ]
    assert annotations.keypoints(1).tolist() == [[[0, 0, 0]] * 3]  # a class without keypoints
    assert annotations.has_keypoints
    assert not annotations.report


def test_a_file_is_written_as_it_was_read(tmp_path):
    path = write_people(tmp_path)
    written = load_annotations(path).to_coco()
    given = json.loads(path.read_text())
    assert written["categories"] == [{"id": 3, "name": "square"}, CATEGORIES[1]]
    for one, other in zip(written["annotations"], given["annotations"], strict=True):
        assert one.get("keypoints") == other.get("keypoints")
        assert one.get("num_keypoints") == other.get("num_keypoints")


def test_objects_without_keypoints_are_counted_for_the_doctor_alone(tmp_path):
    report = load_annotations(write_people(tmp_path)).report
    assert report.counts == {keypoints.POINTLESS: 1}
    assert report.quiet == {keypoints.POINTLESS}


@pytest.mark.parametrize("points", [[1, 2], [1, 2, 2] * 4, "1 2 2", [1, 2, None] * 3, [1, 2, "2"] * 3, {}])
def test_a_wrong_list_is_dropped_and_counted(tmp_path, points):
    path = write_people(tmp_path, [person(1, points), person(2, [12, 22, 2] * 3)])
    report = load_annotations(path).report
    assert report.counts[keypoints.UNEQUAL] == 1
    assert report.ids[keypoints.UNEQUAL] == [1]
    assert load_annotations(path).keypoints(0)[:, :, 2].tolist() == [[0, 0, 0], [2, 2, 2]]


@pytest.mark.parametrize(
    ("kind", "point"),
    [
        (keypoints.ODD, [12, 22, 3]),
        (keypoints.ODD, [12, 22, -1]),
        (keypoints.ODD, [12, 22, 0.5]),
        (keypoints.ODD, [12, 22, float("nan")]),
        (keypoints.BROKEN, [float("nan"), 22, 2]),
        (keypoints.BROKEN, [12, float("inf"), 1]),
        (keypoints.BROKEN, [1e7, 22, 1]),
    ],
)
def test_a_wrong_keypoint_is_dropped_and_counted(tmp_path, kind, point):
    annotations = load_annotations(write_people(tmp_path, [person(1, [*point, 12, 22, 2, 0, 0, 0])]))
    assert annotations.report.counts == {kind: 1}
    assert annotations.keypoints(0).tolist() == [[[0, 0, 0], [12.5, 22.5, 2], [0, 0, 0]]]


@pytest.mark.parametrize("place", [(-1, 22), (80, 22), (12, -0.6), (12, 60)])
def test_a_keypoint_outside_its_image_is_counted_and_kept(tmp_path, place):
    path = write_people(tmp_path, [person(1, [*place, 2, 79, 59, 2, 0, 0, 2])])
    annotations = load_annotations(path)
    assert annotations.report.counts == {keypoints.OUTSIDE: 1}
    assert annotations.keypoints(0)[0, 0].tolist() == [place[0] + 0.5, place[1] + 0.5, 2]


def test_a_wrong_count_is_reported_and_not_used(tmp_path):
    path = write_people(tmp_path, [person(1, [12, 22, 2] * 3, num_keypoints=1)])
    assert reported(path) == {keypoints.MISCOUNTED: 1}
    assert load_annotations(path).to_coco()["annotations"][0]["num_keypoints"] == 3


def test_keypoints_of_a_category_without_names_are_dropped_and_counted(tmp_path):
    nameless = [{"id": 3, "name": "square"}, {"id": 7, "name": "person"}]
    path = write_people(tmp_path, categories=nameless)
    annotations = load_annotations(path)
    assert annotations.report.counts == {keypoints.UNLISTED: 2}
    assert annotations.keypoints(0) is None
    assert not annotations.has_keypoints
    assert "keypoints" not in annotations.to_coco()["annotations"][0]


def test_edges_that_name_no_keypoint_are_dropped_and_counted(tmp_path):
    edges = [[1, 2], [0, 1], [1, 4], [1], "12", [1.0, 2]]
    path = write_people(tmp_path, categories=[CATEGORIES[0], CATEGORIES[1] | {"skeleton": edges}])
    annotations = load_annotations(path)
    assert annotations.categories.skeletons[1].edges == ((0, 1),)
    assert [count for kind, count in annotations.report.counts.items() if "edges" in kind] == [5]


@pytest.mark.parametrize(
    ("names", "message"),
    [("nose", "a list of names"), ([1, 2, 3], "a list of names"), (["x"] * 1001, "1001 keypoints")],
)
def test_categories_with_wrong_names_are_rejected(tmp_path, names, message):
    path = write_people(tmp_path, categories=[CATEGORIES[0], CATEGORIES[1] | {"keypoints": names}])
    with pytest.raises(ValueError, match=message):
        load_annotations(path)


def test_classes_with_different_keypoints_have_rows_of_one_length(tmp_path):
    dot = {"id": 3, "name": "square", "keypoints": ["dot"]}
    square = {"id": 9, "image_id": 100, "category_id": 3, "bbox": [5, 20, 30, 40], "keypoints": [3, 4, 1]}
    path = write_people(tmp_path, [person(1, [12, 22, 2] * 3), square], categories=[dot, CATEGORIES[1]])
    annotations = load_annotations(path)
    assert annotations.keypoints(0)[1].tolist() == [[3.5, 4.5, 1], [0, 0, 0], [0, 0, 0]]
    assert annotations.to_coco()["annotations"][1]["keypoints"] == [3, 4, 1]
    assert reported(path) == {}


def test_objects_without_keypoints_take_no_memory():
    categories = Categories(("person",), (1,), (Skeleton(("a", "b")),))
    builder = keypoints.KeypointBuilder(categories, keypoints_problems())
    for k in range(100):
        builder.add({"id": k, "keypoints": [k, 1, 2, 0, 0, 0] if k % 50 == 7 else [0] * 6}, 0, False, 50, 100)
    stored = builder.build()
    assert stored.points.shape == (2, 2, 3)
    expected = np.zeros((30, 2, 3))
    expected[57 - 40, 0] = 57, 1, 2
    assert np.array_equal(stored.of(40, 70), expected)


def keypoints_problems():
    from detection.coco.problems import Problems

    return Problems("file")


def test_hidden_and_visible_keypoints_of_a_class_are_counted(tmp_path):
    annotations = load_annotations(write_people(tmp_path))
    assert annotations.keypoint_counts(1).tolist() == [[0, 2], [1, 1], [0, 1]]  # nose, left eye, right eye
    assert annotations.keypoint_counts(0).tolist() == []
    boxes = person(1, [], num_keypoints=0)
    del boxes["keypoints"]
    bare = load_annotations(write_people(tmp_path / "bare", [boxes]))
    assert bare.keypoint_counts(1).tolist() == [[0, 0]] * 3


def test_shares_of_problems_are_those_of_all_objects_and_of_all_labelled_keypoints(tmp_path):
    report = load_annotations(write_people(tmp_path)).report
    assert report.totals[keypoints.POINTLESS] == report.totals[keypoints.MISCOUNTED] == 5
    assert report.totals[keypoints.OUTSIDE] == 5


@pytest.mark.parametrize(("points", "count"), [([0] * 9, None), ([], None), ([0, 0, 1], 1), ("x", 1)])
def test_only_keypoints_other_than_zero_are_dropped_from_a_class_without_names(tmp_path, points, count):
    square = {"id": 3, "image_id": 101, "category_id": 3, "bbox": [5, 20, 30, 40], "iscrowd": 0, "keypoints": points}
    assert reported(write_people(tmp_path, [square])).get(keypoints.UNLISTED) == count


def test_a_keypoint_outside_its_image_is_told_with_the_object(tmp_path):
    path = write_people(tmp_path, [person(1, [12, 22, 2] * 3), person(2, [-1, 22, 2, 12, 22, 2, 12, 22, 2])])
    assert load_annotations(path).report.ids[keypoints.OUTSIDE] == [2]
