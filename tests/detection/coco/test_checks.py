"""Checks of categories, images, objects and boxes: exact limits, and what their messages say."""

import re

import numpy as np
import pytest

from detection.coco import checks as module
from detection.coco.checks import (
    OVER,
    UNLISTED,
    check_box,
    check_boxes,
    check_categories,
    check_form,
    check_images,
    check_size,
    collect_objects,
)
from detection.coco.ids import INEXACT, identity, numbers_of
from detection.coco.limits import FARTHEST
from detection.coco.problems import Problems


@pytest.fixture
def problems() -> Problems:
    return Problems("coco.json")


def boxes_of(problems: Problems, *bboxes, size=(60, 80)):
    """(xywh, usable) of objects 11, 12, ... of one image."""
    objects = [(0, 0, {"id": 11 + k, "bbox": box}) for k, box in enumerate(bboxes)]
    return check_boxes(objects, np.array([size]), problems)


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([10, 20, 20, 10], None),
        ([0, 20, 0.1, 10], None),
        ([10, 20, 0.09, 10], "boxes with a side under 0.1 pixels (dropped)"),
        ([10, 20, 10, 0.09], "boxes with a side under 0.1 pixels (dropped)"),
        ([10, 20, 0, 10], "boxes without area (dropped)"),
        ([10, 20, 10, 0], "boxes without area (dropped)"),
        ([10, 20, -1, 10], "boxes without area (dropped)"),
        ([200, 20, 0, 10], "boxes without area (dropped)"),
        ([80, 20, 10, 10], "boxes outside their image (dropped)"),
        ([10, 60, 10, 10], "boxes outside their image (dropped)"),
        ([-10, 20, 10, 10], "boxes outside their image (dropped)"),
        ([79.95, 20, 10, 10], "boxes with a side under 0.1 pixels (dropped)"),
        ([79.5, 20, 10, 10], OVER),
        ([0, 0, 80, 60], None),
        ([0, 0, 80.0009, 60], None),  # rounding
        ([0, 0, 80.002, 60], OVER),
        ([-0.0009, 0, 60, 60], None),
        ([-0.002, 0, 60, 60], OVER),
        ([0, -0.002, 60, 60], OVER),
        ([float("nan"), 0, 60, 60], "boxes with NaN or infinite numbers (dropped)"),
        ([0, 0, float("inf"), 60], "boxes with NaN or infinite numbers (dropped)"),
        ([1e308, 0, 1e308, 60], "boxes with NaN or infinite numbers (dropped)"),
    ],
)
def test_each_box_has_one_verdict(problems, box, kind):
    _, usable = boxes_of(problems, [1, 2, 3, 4], box, [1, 2, 3, 4])
    assert usable.tolist() == [True, kind is None or kind == OVER, True]
    assert problems.counts == ({} if kind is None else {kind: 1})
    assert problems.ids == ({} if kind is None else {kind: [12]})
    assert set(problems.totals.values()) == {3}
    assert len(problems.totals) == 5


def test_boxes_are_kept_as_they_are_but_never_farther_than_a_million_pixels(problems):
    far = FARTHEST
    given = [[10, 20, 30, 300], [-far, 20, far + 30, 10], [-2 * far, 20, 2 * far + 30, 10], [10, 20, 3 * far, 10]]
    xywh, usable = boxes_of(problems, *given)
    assert usable.all()
    assert xywh[:2].tolist() == given[:2]
    assert xywh[2:].tolist() == [[-far, 20, far + 30, 10], [10, 20, far - 10, 10]]


def test_boxes_of_no_objects(problems):
    xywh, usable = boxes_of(problems)
    assert (xywh.shape, usable.shape) == ((0, 4), (0,))


def test_each_object_is_cut_at_its_own_image(problems):
    objects = [(k, 0, {"id": k, "bbox": [0, 0, 50, 70]}) for k in (0, 1)]
    _, usable = check_boxes(objects, np.array([[70, 50], [50, 70]]), problems)
    assert usable.all()
    assert problems.ids == {OVER: [1]}


def test_each_side_has_its_own_limit(problems):
    _, usable = boxes_of(problems, [0, 55, 10, 10], size=(70, 50))
    assert usable.all()
    _, usable = boxes_of(problems, [55, 0, 10, 10], size=(50, 70))
    assert usable.all()
    assert problems.counts == {}


def test_an_object_without_a_box_gets_that_of_its_mask_or_is_counted(problems):
    mask = [[10, 20, 30, 20, 30, 30]]
    objects = [
        (0, 0, {"id": 1, "segmentation": mask}),
        (0, 0, {"id": 2, "bbox": None, "segmentation": mask}),
        (0, 0, {"id": 3}),
        (0, 0, {"id": 4, "bbox": [1, 2, 3, 4]}),
    ]
    xywh, usable = check_boxes(objects, np.array([[60, 80]]), problems)
    assert xywh.tolist() == [[10, 20, 20, 10]] * 2 + [[0, 0, 0, 0], [1, 2, 3, 4]]
    assert usable.tolist() == [True, True, False, True]
    assert problems.ids["annotations with neither a box nor a mask (dropped)"] == [3]
    with pytest.raises(ValueError, match="annotation 5 has bbox None; it must be four numbers"):
        check_boxes([(0, 0, {"id": 5, "bbox": None})], np.array([[60, 80]]), problems)


@pytest.mark.parametrize(
    ("box", "guess"),
    [
        ([1, 2, 3], ""), ([1, 2, 3, 4, 5], " (a rotated box?)"), ([1] * 8, " (the corners of a rotated box?)"),
        ([1] * 6, ""), ([1, 2, 3, "4"], ""), ([1, 2, 3, True], ""), ("text", ""), ((1, 2, 3, 4), ""),
        ([1, 2, 3, 2**1023], ""), ([1, 2, 3, -(2**1023)], ""),
    ],
)  # fmt: skip
def test_a_box_is_four_numbers(problems, box, guess):
    with pytest.raises(ValueError, match=r"coco\.json: annotation 7 has bbox") as caught:
        check_box(box, {"id": 7}, problems)
    assert f"bbox {ascii(box)[:60]}{guess}; it must be four numbers: left, top, width, height" in str(caught.value)


def test_large_integers_are_numbers(problems):
    check_box([1, 2, 3, 2**1023 - 1], {"id": 7}, problems)
    check_box([1, 2, 3, 1 - 2**1023], {"id": 7}, problems)
    _, usable = boxes_of(problems, [1, 2, 3, 2**1022], [1, 2, 3, 4])
    assert usable.tolist() == [True, True]


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_of_pixels_of_an_image(problems, extra):
    entries = [{"id": 5, "file_name": "a.png", "height": 30, "width": 40 + extra}]
    if extra:
        with pytest.raises(ValueError, match=r"image 5 is 41 x 30, more than 1200 pixels; cut it into tiles, or raise"):
            check_images(entries, problems, 1200)
    else:
        ids, sizes, names, number_of = check_images(entries, problems, 1200)
        assert (ids.tolist(), sizes.tolist(), names, number_of) == ([5], [[30, 40]], ["a.png"], {5: 0})


def test_images_of_one_file_are_counted(problems):
    entries = [{"id": k, "file_name": f"{k // 2}.png", "height": 3, "width": 4} for k in range(4)]
    *_, number_of = check_images(entries, problems)
    assert number_of == {0: 0, 1: 1, 2: 2, 3: 3}
    assert problems.ids == {"images with the same file as an earlier image id": [1, 3]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "image 5 has no file_name; add its path below the image folder"),
        (None, "image 5 has no file_name"),
        (7, "image 5 has no file_name"),
        ("a\0b", r"image 5 has file_name 'a\x00b', which is not a valid file name; correct it"),
        ("\ud800", r"image 5 has file_name '\ud800', which is not a valid file name; correct it"),
    ],
)
def test_an_image_has_a_name(problems, name, message):
    with pytest.raises(ValueError, match=re.escape(f"coco.json: {message}")):
        check_images([{"id": 5, "file_name": name, "height": 3, "width": 4}], problems)


@pytest.mark.parametrize(
    ("side", "value"), [("height", 0), ("width", 0), ("width", True), ("height", 1.5), ("width", None)]
)
def test_each_side_is_a_positive_integer(problems, side, value):
    entry = {"id": 5, "height": 1, "width": 1}
    assert check_size(entry, problems) == (1, 1)
    with pytest.raises(ValueError, match=f"image 5 has {side} {value!r}; it must be a positive integer"):
        check_size(entry | {side: value}, problems)


def test_categories_are_sorted_by_id_and_names_may_be_numbers(problems):
    entries = [{"id": 7, "name": "b"}, {"id": "3", "name": 5}, {"id": 9, "name": "b"}]
    categories, label_of = check_categories(entries, problems)
    assert (categories.ids, categories.names) == ((3, 7, 9), ("5", "b", "b"))
    assert label_of == {7: 1, 3: 0, 9: 2}
    assert problems.ids == {"category names that occur twice": ["b"]}


@pytest.mark.parametrize("name", [None, [], "\ud800"])
def test_a_category_has_a_name(problems, name):
    entry = {"id": 7, "name": name, "supercategory": "x" * 99}
    with pytest.raises(ValueError, match="has no valid name; add") as caught:
        check_categories([entry], problems)
    assert f"category {ascii(entry)[:80]} has" in str(caught.value)


def test_objects_are_sorted_out(problems):
    entries = [
        {"id": 1, "image_id": 5, "category_id": 3},
        {"id": 1, "image_id": "5", "category_id": 3.0},
        {"id": "1", "image_id": 6, "category_id": 3},
        {"image_id": 5, "category_id": "3"},
        {"image_id": 5, "category_id": 3},
    ]
    found = collect_objects(entries, {5: 2}, {3: 1}, problems)
    assert [(image, label) for image, label, _ in found] == [(2, 1)] * 4
    assert problems.ids == {"annotation ids that occur twice (renumbered)": [1], UNLISTED: ["1"]}


@pytest.mark.parametrize("number", [1, 5, 6])
def test_unknown_categories_are_listed_up_to_five(problems, number):
    entries = [{"id": k, "image_id": 5, "category_id": "x" * 99} for k in range(number)]
    what = "1 annotation has" if number == 1 else f"{number} annotations have"
    with pytest.raises(ValueError, match=rf"{what} a category_id that is not in categories: 0 \(category") as caught:
        collect_objects(entries, {5: 0}, {3: 0}, problems)
    pairs = str(caught.value).partition("categories: ")[2].partition(";")[0].split(", ")
    assert [pair.partition(" ")[0] for pair in pairs] == [str(k) for k in range(min(number, 5))]
    assert {len(pair) for pair in pairs} == {80}


@pytest.mark.parametrize(("number", "compared"), [(1, 1), (19, 19), (20, 10), (29, 15), (30, 10)])
def test_about_so_many_masks_are_compared_with_their_boxes(problems, monkeypatch, number, compared):
    """Evenly over the file; the boxes are fractions of the image, so that none agrees with its mask."""
    monkeypatch.setattr(module, "LOOKED_AT", 10)
    entries = [{"bbox": [0.5, 0.25, 0.25, 0.5], "segmentation": [[40, 15, 60, 15, 60, 45, 40, 45]]}] * number
    objects = [(0, 0, entry) for entry in entries]
    xywh = np.array([entry["bbox"] for entry in entries])
    check_form(objects, xywh, np.array([[60, 80]]), problems)
    (hint,) = problems.hints
    assert f"{compared} of {compared} agree with their masks (in COCO's format 0)" in hint.text


@pytest.mark.parametrize(("fields", "known"), [({}, True), ({"segmentation": []}, True), ({"area": "900"}, False)])
def test_areas_tell_the_form_of_boxes_without_masks(problems, fields, known):
    entry = {"area": 900.0} | fields
    corners = np.array([[50.0, 50, 80, 80]] * 20)  # as left, top, width, height inside the image, too
    check_form([(0, 0, entry)] * 20, corners, np.array([[200, 200]]), problems)
    assert bool(problems.hints) == known
    if known:
        assert "20 of 20 have the stated area (in COCO's format 0)" in problems.hints[0].text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(17, 17), (17.0, 17), ("17", 17), ("-17", -17), ("--17", "--17"), ("", None), (1.5, None), (None, None),
     ("9" * 19, int("9" * 19)), ("9" * 20, "9" * 20), ("x", "x"), ("\u0661", "\u0661"), (np.int64(5), 5),
     (float("nan"), None), ([], None)],
)  # fmt: skip
def test_an_identity_is_a_number_or_a_text(value, expected):
    found = identity(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("one", "kept"),
    [(2**63 - 1, True), (2**63, False), (-(2**63), True), (-(2**63) - 1, False), (-1, False), (0, True), ("x", False)],
)
def test_ids_beyond_64_bits_or_with_a_meaning_are_numbered(problems, one, kept):
    found = numbers_of([{"id": 4}, {"id": one}], "image", problems, reserved=-1)
    assert found == ({4: 4, one: one} if kept else {4: 1, one: 2})
    kind = "image ids that are text, -1 or beyond 64 bits (all numbered from 1 in the file's order)"
    assert problems.ids == ({} if kept else {kind: [one]})
    assert numbers_of([{"id": -1}], "image", problems) == {-1: -1}


def test_ids_beyond_64_bits_are_counted_without_a_reserved_one(problems):
    numbers_of([{"id": "x"}], "image", problems)
    assert list(problems.ids) == ["image ids that are text or beyond 64 bits (all numbered from 1 in the file's order)"]


@pytest.mark.parametrize(
    ("one", "exact"), [(2.0**53 - 1, True), (2.0**53, False), (1 - 2.0**53, True), (-(2.0**53), False), (2**60, True)]
)
def test_decimals_are_exact_below_2_to_the_53(problems, one, exact):
    assert numbers_of([{"id": one}], "image", problems) == {int(one): int(one)}
    assert problems.ids == ({} if exact else {INEXACT: [int(one)]})
    if not exact:
        with pytest.raises(ValueError, match=r"image id .* is not exact; write it as an integer"):
            numbers_of([{"id": one}], "image", Problems("coco.json", strict=True))


def test_an_id_is_needed_and_occurs_once(problems):
    entry = {"name": "x" * 100}
    with pytest.raises(ValueError, match="has no valid id; add an integer id") as caught:
        numbers_of([entry], "category", problems)
    assert f"category {ascii(entry)[:80]} has" in str(caught.value)
    with pytest.raises(ValueError, match="category id 3 occurs twice; give each category its own id"):
        numbers_of([{"id": 3}, {"id": "3"}], "category", problems)


@pytest.mark.parametrize(("count", "share"), [(10, False), (11, True)])
def test_a_share_is_told_if_it_is_more_than_a_tenth(problems, count, share):
    kind = "boxes without area (dropped)"
    problems.totals[kind] = 100
    for k in range(count):
        problems.warn(kind, k)
    assert problems.widespread(kind) == share
    ids = ", ".join(map(str, range(10)))
    expected = f"{count} {kind}, 11% of 100: {ids}, ..." if share else f"{count} {kind}: {ids}"
    assert str(problems) == f"coco.json:\n  {expected}"


def test_without_a_total_no_share_is_told(problems):
    problems.warn("boxes without area (dropped)", 5)
    assert str(problems) == "coco.json:\n  1 box without area (dropped): 5"
    assert problems
    quiet = problems.empty()
    quiet.note("objects marked occluded", 5)
    assert quiet.counts == {"objects marked occluded": 1}
    assert not quiet
    assert str(quiet) == "coco.json:"
