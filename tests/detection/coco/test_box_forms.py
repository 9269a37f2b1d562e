import json

import numpy as np
import pytest

from detection.coco.annotations import load_annotations
from detection.coco.box_forms import (
    COCO,
    LAYOUTS,
    _described,
    _evidence,
    _explains,
    _in_percent,
    _is_doubtful,
    _is_sound,
    likely_form,
)

FROM_COCO = {
    "left, top, width, height": lambda x, y, w, h: (x, y, w, h),
    "left, top, right, bottom": lambda x, y, w, h: (x, y, x + w, y + h),
    "centre x, centre y, width, height": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
    "top, left, height, width": lambda x, y, w, h: (y, x, h, w),
    "top, left, bottom, right": lambda x, y, w, h: (y, x, y + h, x + w),
    "left, right, top, bottom": lambda x, y, w, h: (x, x + w, y, y + h),
}


def drawn(count=200, seed=0, size=(480, 640)):
    """(m, 4) XYWH well inside images of one size, height and width; and (m, 2) width, height."""
    generator = np.random.default_rng(seed)
    height, width = size
    extent = generator.uniform(5, min(size) / 2, (count, 2))
    corner = generator.uniform(0, 1, (count, 2)) * (np.array([width, height]) - extent)
    return np.concatenate([corner, extent], axis=1), np.tile([[float(width), float(height)]], (count, 1))


def unknown(count):
    return np.full((count, 4), np.nan), np.full(count, np.nan)


def masks_of(xywh):
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def written(xywh, layout, scale=None):
    """The boxes in another layout; as parts of (width, height) times a number where that is given."""
    if scale is not None:
        limits, whole = scale
        xywh = xywh / np.tile(limits, 2) * whole
    return np.stack(FROM_COCO[layout](*xywh.T), axis=1)


def test_the_layouts_read_what_they_were_written_from():
    xywh, _ = drawn(20)
    for layout, read in LAYOUTS.items():
        assert np.allclose(np.stack(read(*written(xywh, layout).T), axis=1), masks_of(xywh))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != COCO[0]])
def test_a_layout_in_pixels_is_named_by_what_lies_inside(layout):
    xywh, limits = drawn()
    hint = likely_form(written(xywh, layout), limits, *unknown(len(xywh)))
    assert hint is not None
    assert hint.text.startswith(f"the boxes look like {layout}")
    assert "in pixels, not left, top, width, height" in hint.text
    assert "200 of 200 lie inside" in hint.text
    assert hint.grave
    assert not hint.unusable


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize(("unit", "whole"), [("fractions", 1.0), ("percent", 100.0)])
def test_parts_of_the_image_are_named_by_the_masks(layout, unit, whole):
    xywh, limits = drawn()
    hint = likely_form(written(xywh, layout, (limits, whole)), limits, masks_of(xywh), np.full(200, np.nan))
    assert hint is not None
    assert hint.text.startswith(f"the boxes look like {layout} in {unit} of the image")
    assert "200 of 200 agree with their masks" in hint.text
    assert hint.unusable == (unit == "fractions")


def test_fractions_are_known_without_masks_even_if_there_is_one_box_alone():
    xywh, limits = drawn(1)
    hint = likely_form(written(xywh, COCO[0], (limits, 1.0)), limits, *unknown(1))
    assert hint is not None
    assert hint.unusable
    assert "left, top, width, height (or " in hint.text  # several layouts fit, and all are named


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("with_areas", [True, False])
def test_percent_are_known_without_masks(layout, with_areas):
    xywh, limits = drawn()
    boxes = written(xywh, layout, (limits, 100.0))
    areas = boxes[:, 2] * boxes[:, 3] if with_areas and layout == COCO[0] else np.full(200, np.nan)
    hint = likely_form(boxes, limits, np.full((200, 4), np.nan), areas)
    assert hint is not None
    assert layout in hint.text.partition(" in percent of the image, not left, top, width, height in pixels")[0]
    assert hint.grave
    assert not hint.unusable


@pytest.mark.parametrize("few", [slice(0, 19), slice(0, 200, 2)])
def test_percent_are_suspected_from_twenty_boxes(few):
    xywh, limits = drawn()
    boxes = written(xywh, COCO[0], (limits, 100.0))[few]
    found = likely_form(boxes, limits[few], *unknown(len(boxes)))
    assert (found is not None) == (len(boxes) >= 20)


@pytest.mark.parametrize("kind", ["sign in a corner", "small images", "one beyond", "masks agree", "thin strip"])
def test_boxes_in_the_first_hundred_pixels_need_not_be_percent(kind):
    xywh, limits = drawn(size=(100, 100))
    masks = np.full((200, 4), np.nan)
    if kind == "sign in a corner":
        xywh = np.tile([[5.0, 8, 90, 30]], (200, 1))
    elif kind == "one beyond":
        xywh[7] = [300, 20, 30, 30]
    elif kind == "masks agree":
        masks = masks_of(xywh)
    elif kind == "thin strip":
        xywh[:, 1] *= 0.2
    if kind != "small images":
        limits = limits * 6
    assert likely_form(xywh, limits, masks, np.full(200, np.nan)) is None


def test_corners_near_the_origin_are_known_by_the_stated_areas():
    xywh, limits = drawn(size=(100, 100))
    limits *= 10  # read as left, top, width, height all lie inside, too
    hint = likely_form(
        written(xywh, "left, top, right, bottom"), limits, np.full((200, 4), np.nan), xywh[:, 2] * xywh[:, 3]
    )
    assert hint is not None
    assert "left, top, right, bottom" in hint.text
    assert "200 of 200 have the stated area (in COCO's format 0)" in hint.text


def test_the_numbers_are_those_of_hand_arithmetic():
    # As left, top, width, height the first reaches to 10 + 95 = 105 of 100, the second to 110, the third to 60.
    boxes = np.array([[10.0, 10, 95, 95], [50, 50, 60, 60], [20, 20, 40, 40]])
    hint = likely_form(boxes, np.full((3, 2), 100.0), *unknown(3))
    assert hint is not None
    assert "3 of 3 lie inside their image (in COCO's format 1)" in hint.text


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["sound", "one edge", "all edges", "loose masks", "one bad box", "tiny"])
def test_sound_boxes_are_suspected_of_nothing(seed, kind):
    xywh, limits = drawn(seed=seed)
    masks, areas = masks_of(xywh), np.full(200, np.nan)
    if kind == "one edge":  # whole people of whom the image shows a part
        xywh[::3, 3] *= 2.5
        masks, areas = unknown(200)
    elif kind == "all edges":  # tiles that were cut without cutting the boxes
        xywh[:, :2] += np.random.default_rng(seed).uniform(-120, 120, (200, 2))
        masks, areas = unknown(200)
    elif kind == "loose masks":  # whole people, masks of what is seen
        masks[:, 3] -= xywh[:, 3] * 0.5
    elif kind == "one bad box":
        xywh[0] = [600, 400, 90, 90]
    elif kind == "tiny":
        xywh[:, 2:] = np.random.default_rng(seed).uniform(2, 8, (200, 2))
        masks, areas = masks_of(xywh), np.full(200, 1.0)  # a placeholder
    assert likely_form(xywh, limits, masks, areas) is None


def test_no_boxes_have_no_form():
    assert likely_form(np.zeros((0, 4)), np.zeros((0, 2)), *unknown(0)) is None


def test_boxes_that_are_not_finite_are_no_obstacle():
    xywh, limits = drawn()
    xywh[0], xywh[1] = np.nan, np.inf
    assert likely_form(xywh, limits, *unknown(200)) is None


def test_a_file_of_corners_is_loaded_as_it_is_and_reported(write_dataset, tmp_path):
    corners = [[30, 25, 75, 55], [40, 30, 70, 50], [20, 30, 65, 58]]
    annotations = [{"id": k, "image_id": 100, "category_id": 3, "bbox": box} for k, box in enumerate(corners)]
    found = load_annotations(write_dataset(tmp_path, annotations=annotations))
    assert found.to_coco()["annotations"][0]["bbox"] == [30, 25, 75, 55]  # nothing was changed by a guess
    text = str(found.report)
    assert "3 boxes that reach over their image (cut), 100% of 3" in text
    assert "warning: the boxes look like left, top, right, bottom" in text


@pytest.mark.parametrize(("numbers", "what"), [(5, "a rotated box?"), (8, "the corners of a rotated box?")])
def test_a_rotated_box_is_rejected_as_one(write_dataset, tmp_path, numbers, what):
    entry = {"id": 9, "image_id": 100, "category_id": 3, "bbox": list(range(numbers))}
    with pytest.raises(ValueError, match=rf"annotation 9 has bbox .*{what[2:-1]}.*; it must be four numbers"):
        load_annotations(write_dataset(tmp_path, annotations=[entry]))


@pytest.mark.slow
def test_real_boxes_are_recognised_in_every_form(shared_data, tmp_path):
    content = json.loads((shared_data / "coco_mini/annotations/instances_val2017.json").read_text())
    own = [entry["bbox"] for entry in content["annotations"]]
    for layout, write in FROM_COCO.items():
        for entry, box in zip(content["annotations"], own, strict=True):
            entry["bbox"] = list(write(*box))
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(content))
        hints = load_annotations(path).report.hints
        assert [hint.text.startswith(f"the boxes look like {layout} in pixels") for hint in hints] == (
            [] if layout == COCO[0] else [True]
        )


@pytest.mark.parametrize(("name", "whole"), [("fractions", 1.0), ("percent", 100.0)])
def test_real_boxes_without_masks_are_recognised_as_parts_of_the_image(shared_data, tmp_path, name, whole):
    content = json.loads((shared_data / "coco_mini/annotations/instances_val2017.json").read_text())
    sizes = {image["id"]: np.array([image["width"], image["height"]] * 2) for image in content["images"]}
    path = tmp_path / "coco.json"
    for given in (False, True):
        for entry in content["annotations"]:
            entry.pop("segmentation", None)
            entry.pop("area", None)
            if given:
                entry["bbox"] = (entry["bbox"] / sizes[entry["image_id"]] * whole).tolist()
        path.write_text(json.dumps(content))
        report = load_annotations(path).report
        assert (f"in {name} of the image, not left, top, width, height in pixels" in str(report)) == given
        assert report.hints == [] or given


@pytest.mark.parametrize(
    "name",
    [pytest.param("nuclei/annotations/instances_train", marks=pytest.mark.slow), "nuclei/annotations/instances_val"],
)
def test_real_files_are_suspected_of_nothing_with_and_without_masks(shared_data, tmp_path, name):
    source = shared_data / f"{name}.json"
    content = json.loads(source.read_text())
    for entry in content["annotations"]:
        entry.pop("segmentation", None)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    assert load_annotations(source).report.hints == load_annotations(path).report.hints == []


def passed(number: int, of: int) -> np.ndarray:
    """Return which boxes pass a test: the given number of boxes from the start."""
    return np.arange(of) < number


@pytest.mark.parametrize(
    ("failed", "of", "fewest", "doubtful"),
    [(0, 0, 1, False), (0, 9, 1, False), (1, 1, 1, True), (1, 2, 1, False), (1, 1, 2, False), (2, 2, 2, True),
     (2, 3, 2, True), (2, 4, 2, False), (3, 149, 2, True), (3, 150, 2, False), (4, 199, 2, True), (4, 200, 2, False)],
)  # fmt: skip
def test_a_few_failures_raise_no_doubt(failed, of, fewest, doubtful):
    """From three on, more than 2% must fail; below, more than half."""
    assert _is_doubtful(passed(of - failed, of), fewest) == doubtful


@pytest.mark.parametrize(
    ("failed", "before", "explains"),
    [(0, 1, True), (10, 100, True), (11, 110, False), (10, 99, False), (1, 10, True), (1, 9, False), (0, 0, True)],
)
def test_another_format_explains_nine_of_ten_failures(failed, before, explains):
    """At most 10% of 100 boxes fail, and at most 10% as many as before."""
    assert _explains(passed(100 - failed, 100), passed(200 - before, 200)) == explains


@pytest.mark.parametrize(
    ("inside", "masks", "before", "sound"),
    [(19, 20, 20, True), (18, 20, 20, False), (20, 48, 50, True), (20, 47, 50, False), (20, 50, 40, True)],
)
def test_another_format_must_be_sound_itself(inside, masks, before, sound):
    """95% of the boxes are inside, and the masks agree as often as before, up to 2%."""
    found = {"inside": passed(inside, 20), "masks": passed(masks, 100 if masks > 20 else 20)}
    assert _is_sound(found, {"masks": passed(before, 100 if before > 20 else 20)}) == sound


def evidence(box, test, form=COCO, limits=(80, 480), mask=None, area=np.nan):
    (found,) = [
        _evidence(form, np.array([box], float), np.array([limits], float), np.array([mask or [np.nan] * 4], float),
                  np.array([area], float))[test].tolist()
    ]  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([10, 20, 30, 40], True),
        ([10, 20, 0, 40], False),
        ([10, 20, 30, 0], False),
        ([10, 20, 0.5, 0.5], True),
        ([-1, 20, 30, 40], True),  # a pixel, or 1% of the side, may lie outside
        ([-1.1, 20, 30, 40], False),
        ([10, -4.8, 30, 40], True),
        ([10, -4.9, 30, 40], False),
        ([10, 20, 71, 40], True),
        ([10, 20, 71.1, 40], False),
        ([10, 20, 30, 464.75], True),
        ([10, 20, 30, 464.9], False),
        ([0, 0, 1, 1], False),  # likely a fraction
        ([0, 0, 1, 1.01], True),
        ([-1, 0, 1, 1], False),
        ([np.nan, 0, 10, 10], False),
    ],
)
def test_what_is_inside_an_image(box, inside):
    assert evidence(box, "inside") == [inside]


def test_fractions_and_percent_are_those_of_the_sides():
    assert evidence([0.5, 0.25, 0.5, 0.75], "inside", (COCO[0], "fractions of the image")) == [True]
    assert evidence([0.5, 0.25, 0.52, 0.75], "inside", (COCO[0], "fractions of the image")) == [False]
    assert evidence([50, 25, 50, 75], "inside", (COCO[0], "percent of the image")) == [True]
    assert evidence([50, 25, 50, 77], "inside", (COCO[0], "percent of the image")) == [False]
    assert evidence([50, 25, 50, 50], "areas", (COCO[0], "percent of the image"), area=40 * 240) == [True]


@pytest.mark.parametrize(("bottom", "agrees"), [(8, False), (8.1, True), (10, True), (12.4, True), (12.6, False)])
def test_a_box_agrees_with_its_mask_above_an_iou_of_0_8(bottom, agrees):
    assert evidence([0, 0, 10, 10], "masks", mask=[0, 0, 10, bottom]) == [agrees]
    assert evidence([0, 0, 10, 10], "masks", mask=[0, np.nan, 10, bottom]) == []


@pytest.mark.parametrize(("area", "agrees"), [(97, False), (97.1, True), (100, True), (103, True), (104.2, False)])
def test_a_box_has_its_stated_area_up_to_two_percent_and_a_pixel(area, agrees):
    assert evidence([0, 0, 10, 10.0], "areas", area=area) == [agrees]
    assert evidence([0, 0, 10, 10.0], "areas") == []


def spread(low=10.0, high=90.0, middle=(30.0, 60.0), side=10.0):
    """(21, 4) squares: two begin at ``low``, two end at ``high``, and the others are between."""
    corner = [low, low, *np.linspace(*middle, 17), high - side, high - side]
    return np.array([[c, c, side, side] for c in corner])


@pytest.mark.parametrize(
    ("boxes", "size", "found"),
    [
        (spread(), 200, True),
        (spread(), 199, False),  # too small to tell
        (spread()[1:], 200, True),
        (spread()[2:], 200, False),  # 19 are too few
        (spread(10.1), 500, False),
        (spread(high=89.9), 500, False),
        (spread(middle=(30, 59.9)), 500, False),
        (spread(-1, 101), 500, True),
        (spread(-1.1), 500, False),
        (spread(high=101.1), 500, False),
    ],
)
def test_numbers_that_cover_0_to_100_are_percent(boxes, size, found):
    """Left and top below 10, right and bottom above 90, most centres 30 apart, and none beyond 101 or below -1."""
    for limits in ([size, 500.0], [500.0, size]):
        hint = _in_percent(boxes, np.tile([limits], (len(boxes), 1)))
        assert (hint is not None and f"look like {COCO[0]}" in hint.text) == found


@pytest.mark.parametrize(("small", "found"), [(21, True), (22, False)])
def test_half_of_the_images_must_be_large(small, found):
    boxes = np.concatenate([spread(), np.tile([[300.0, 300, 5, 5]], (small, 1))])
    limits = np.array([[500.0, 500]] * 21 + [[199.0, 500]] * small)
    hint = _in_percent(boxes, limits)
    assert (hint is not None) == found
    if hint is not None:
        assert "the numbers of all 21 boxes in images of at least 200 x 200 pixels are between 10 and 80;" in hint.text
        assert "(or top, left, height, width) in percent of the image" in hint.text
        assert hint.grave


def test_a_layout_alone_has_no_alternative():
    boxes = spread()
    boxes[:, 2] = 12
    boxes[:, 1] = boxes[::-1, 1]
    boxes[:, 0] *= 0.9
    hint = _in_percent(boxes, np.full((21, 2), 500.0))
    assert hint is None or "(or" in hint.text or hint.text.startswith("the boxes look like left, top, width, height in")


@pytest.mark.parametrize(
    ("failed", "boxes", "unit", "grave", "unusable"),
    [(10, 0, "pixels", False, False), (11, 0, "pixels", True, False), (100, 0, "pixels", True, False),
     (10, 90, "fractions of the image", False, True), (10, 89, "fractions of the image", False, False),
     (10, 90, "pixels", False, False)],
)  # fmt: skip
def test_a_hint_is_grave_if_more_than_a_tenth_fails(failed, boxes, unit, grave, unusable):
    """And a file is unusable if nine of ten boxes are in the corner of their image."""
    given = {test: passed(100 - failed, 100) for test in ("inside", "masks", "areas")}
    xywh = np.where(passed(boxes, 100)[:, None], 0.5, 30.0) * np.ones((100, 4))
    form = ("left, top, right, bottom", unit)
    hint = _described([form], "inside", given, xywh, np.full((100, 2), 90.0), *unknown(100))
    assert (hint.grave, hint.unusable) == (grave, unusable)
    assert hint.text.startswith(f"the boxes look like left, top, right, bottom in {unit}, not left, top, width, height")
    assert f"(in COCO's format {100 - failed}); convert them" in hint.text
    several = _described([form, (COCO[0], unit)], "inside", given, xywh, np.full((100, 2), 90.0), *unknown(100))
    assert several.text.startswith(
        f"the boxes look like left, top, right, bottom (or left, top, width, height) in {unit}"
    )


def test_one_corner_alone_raises_doubt_but_one_large_box_does_not():
    boxes, limits = np.array([[60.0, 50, 90, 95]]), np.full((1, 2), 100.0)  # right and bottom, likely
    assert likely_form(boxes, limits, *unknown(1)) is None
    assert likely_form(np.tile(boxes, (2, 1)), np.tile(limits, (2, 1)), *unknown(2)) is not None
    assert likely_form(boxes / 100, limits, *unknown(1)) is not None


@pytest.mark.parametrize(("side", "found"), [(200.0, True), (199.0, False)])
def test_images_of_200_pixels_are_large_enough_for_percent(side, found):
    assert (_in_percent(spread(), np.full((21, 2), side)) is not None) == found


@pytest.mark.parametrize("column", [2, 3])
def test_a_box_without_a_size_is_no_percentage(column):
    boxes = spread()
    boxes[3, column] = 0
    hint = _in_percent(boxes, np.full((21, 2), 500.0))
    assert hint is None or f"look like {COCO[0]}" not in hint.text
