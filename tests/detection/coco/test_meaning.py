import pytest

from detection.coco.annotations import load_annotations
from detection.coco.flags import flag, is_number
from detection.coco.meaning import FIELDS, IGNORED, ROTATED

BOX = [10, 20, 20, 10]


def load(write_dataset, folder, **fields):
    """One good object with more fields than COCO's own."""
    entry = {"id": 9, "image_id": 100, "category_id": 3, "bbox": BOX, **fields}
    return load_annotations(write_dataset(folder, annotations=[entry]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, False), (1, True), (True, True), (False, False), (1.0, True), ("1", True), ("0", False), (" True", True),
     ("false", False), (2, None), (-1, None), (0.5, None), (float("nan"), None), ("yes", None), ("", None),
     (None, None), ([], None), ({}, None)],
)  # fmt: skip
def test_a_flag_is_what_files_write_for_yes_and_no(value, expected):
    assert flag(value) is expected


@pytest.mark.parametrize("value", [1, True, "1", 1.0, "true"])
def test_what_is_ignored_is_a_crowd_and_counted(write_dataset, tmp_path, value):
    annotations = load(write_dataset, tmp_path, ignore=value)
    assert annotations.crowd(0).tolist() == [True]
    assert annotations.to_coco()["annotations"][0]["iscrowd"] == 1
    assert annotations.report.counts == {IGNORED: 1}
    assert annotations.report.ids[IGNORED] == [9]


@pytest.mark.parametrize("value", [0, False, "0", None, "false"])
def test_what_is_not_ignored_is_an_object_like_any_other(write_dataset, tmp_path, value):
    annotations = load(write_dataset, tmp_path, ignore=value)
    assert annotations.crowd(0).tolist() == [False]
    assert not annotations.report


def test_a_crowd_that_is_ignored_is_no_news(write_dataset, tmp_path):
    annotations = load(write_dataset, tmp_path, ignore=1, iscrowd=1)
    assert annotations.crowd(0).tolist() == [True]
    assert not annotations.report


def test_an_ignore_that_is_neither_yes_nor_no_is_counted_and_not_followed(write_dataset, tmp_path):
    annotations = load(write_dataset, tmp_path, ignore="partly")
    assert annotations.crowd(0).tolist() == [False]
    assert "1 object whose ignore is neither 0 nor 1 (not followed): 9" in str(annotations.report)


@pytest.mark.parametrize("name", ["rotation", "angle", "Rotation"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("degrees", [90.0, 45, "30", -15.5, 359])
def test_rotated_objects_are_counted_and_their_box_left_alone(write_dataset, tmp_path, name, nested, degrees):
    fields = {"attributes": {"occluded": False, name: degrees}} if nested else {name: degrees}
    annotations = load(write_dataset, tmp_path, **fields)
    assert annotations.report.counts == {ROTATED: 1}
    assert annotations.to_coco()["annotations"][0]["bbox"] == BOX


@pytest.mark.parametrize(
    "degrees", [0, 0.0, 180, 360.0, -180, 179.9999, 0.0005, -0.0005, "0", None, float("nan"), [90], "north"]
)
def test_half_a_turn_is_no_turn_and_what_is_no_angle_is_none(write_dataset, tmp_path, degrees):
    assert not load(write_dataset, tmp_path, attributes={"rotation": degrees}).report


def test_a_box_around_the_turned_outline_is_right_and_no_news(write_dataset, tmp_path):
    outline = [[10, 25, 20, 20, 30, 25, 20, 30]]  # its box is 10, 20, 20, 10
    assert not load(write_dataset, tmp_path, attributes={"rotation": 45}, segmentation=outline).report


@pytest.mark.parametrize(
    "outline", [[10, 22, 28, 21, 26, 28, 10, 25], [10, 20, 30, 20, 30, 30, 10, 30]], ids=["smaller", "the box itself"]
)
def test_an_outline_that_does_not_confirm_the_box_excuses_nothing(write_dataset, tmp_path, outline):
    report = load(write_dataset, tmp_path, attributes={"rotation": 45}, segmentation=[outline]).report
    assert report.counts == {ROTATED: 1}


@pytest.mark.parametrize(
    "fields", [{"difficult": 1}, {"attributes": {"difficult": True}}, {"isGroupOf": "1"}, {"IsGroupOf": 1}]
)
def test_marks_that_are_not_followed_are_counted_with_their_ids(write_dataset, tmp_path, fields):
    annotations = load(write_dataset, tmp_path, **fields)
    assert annotations.crowd(0).tolist() == [False]
    ((kind, count),) = annotations.report.counts.items()
    assert kind in FIELDS.values()
    assert (count, annotations.report.ids[kind]) == (1, [9])
    assert "1 object marked" in str(annotations.report)


@pytest.mark.parametrize("fields", [{"occluded": 2}, {"attributes": {"truncated": True}}, {"truncation": 0.4}])
def test_hidden_and_cut_objects_are_counted_for_the_doctor_alone(write_dataset, tmp_path, fields):
    report = load(write_dataset, tmp_path, **fields).report
    assert list(report.counts.values()) == [1]
    assert not report  # fit prints nothing


@pytest.mark.parametrize("attributes", [None, [], "difficult", {}, {"difficult": False}, {"difficult": 0}, {1: 2}])
def test_attributes_that_say_nothing_are_no_news(write_dataset, tmp_path, attributes):
    assert not load(write_dataset, tmp_path, attributes=attributes).report.counts


def test_an_ignore_among_the_attributes_is_counted(write_dataset, tmp_path):
    annotations = load(write_dataset, tmp_path, attributes={"ignore": 1})
    assert annotations.crowd(0).tolist() == [False]
    assert "attributes have ignore (not followed" in str(annotations.report)


def test_an_outline_of_another_width_does_not_confirm_the_box(write_dataset, tmp_path):
    outline = [10, 35, 23, 30, 36, 35, 23, 40]  # its box is 10, 30, 26, 10
    report = load(write_dataset, tmp_path, bbox=[10, 30, 20, 10], rotation=45, segmentation=[outline]).report
    assert report.counts == {ROTATED: 1}
    outline = [10, 37, 20, 31.5, 30, 37, 20, 43]  # and this one's 10, 31.5, 20, 11.5: its lower side is 3 away
    report = load(write_dataset, tmp_path, bbox=[10, 30, 20, 10], rotation=45, segmentation=[outline]).report
    assert report.counts == {ROTATED: 1}


@pytest.mark.parametrize(("off", "upright"), [(1.9, True), (2.0, False)])
@pytest.mark.parametrize("side", range(4))
def test_the_box_around_an_outline_may_be_two_pixels_off(write_dataset, tmp_path, side, off, upright):
    outline = [10, 35, 20, 30, 30, 35, 20, 40]  # its box is 10, 30, 20, 10
    corners = [10.0, 30.0, 30.0, 40.0]
    corners[side] += off
    box = [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]]
    report = load(write_dataset, tmp_path, bbox=box, rotation=45, segmentation=[outline]).report
    assert report.counts == ({} if upright else {ROTATED: 1})


def test_a_box_that_is_taken_from_the_outline_is_upright(write_dataset, tmp_path):
    outline = [10, 35, 20, 30, 30, 35, 20, 40]
    assert not load(write_dataset, tmp_path, bbox=None, rotation=45, segmentation=[outline]).report


def test_of_several_outlines_the_whole_box_counts(write_dataset, tmp_path):
    parts = [[10, 20, 14, 20, 14, 30, 10, 30], [26, 20, 30, 20, 30, 30, 26, 30]]
    assert not load(write_dataset, tmp_path, rotation=45, segmentation=parts).report


@pytest.mark.parametrize(
    ("degrees", "rotated"), [(0.001, False), (0.0011, True), (-0.0011, True), (179.9989, True), (179.9991, False)]
)
def test_an_angle_of_a_thousandth_of_a_degree_is_rounding(write_dataset, tmp_path, degrees, rotated):
    report = load(write_dataset, tmp_path, rotation=degrees).report
    assert report.counts == ({ROTATED: 1} if rotated else {})


@pytest.mark.parametrize(
    ("value", "marked"), [(0, False), (-1, True), (0.5, True), ("2", True), ("", False), (None, False)]
)
def test_any_number_but_zero_is_a_mark(write_dataset, tmp_path, value, marked):
    report = load(write_dataset, tmp_path, difficult=value).report
    assert report.counts == ({FIELDS["difficult"]: 1} if marked else {})


@pytest.mark.parametrize(
    ("value", "number"),
    [(1.5, True), (2**1023 - 1, True), (-(2**1023) + 1, True), (2**1023, False), (True, False), ("1", False)],
)
def test_a_number_is_a_float_or_an_integer_that_fits_one(value, number):
    assert is_number(value) is number
