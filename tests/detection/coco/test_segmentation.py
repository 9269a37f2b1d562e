"""Which masks are kept, which are dropped, and what is reported, to the exact limits."""

import json
import sys
from array import array

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.coco import segmentation as module
from detection.coco.annotations import load_annotations
from detection.coco.limits import FARTHEST
from detection.coco.problems import Problems
from detection.coco.segmentation import BARE, BROKEN, EMPTY, MASKLESS, SHARED, mask_area, mask_box, read_segmentation

BOX = [10, 20, 20, 10]
SQUARE = [10, 20, 30, 20, 30, 30, 10, 30]
FAR = "polygons far outside their box (kept; the box is what counts)"
LINE = "polygons whose points lie on one line (kept, as a line)"


def read(segmentation, strict: bool = False):
    """(polygons, RLE, what was reported) of one annotation of an image of 60 x 80."""
    problems = Problems("coco.json", strict=strict)
    polygons, rle = read_segmentation({"id": 9, "segmentation": segmentation}, 60, 80, problems)
    return [list(polygon) for polygon in polygons], rle, problems.counts


@pytest.mark.parametrize("kind", [list, lambda values: array("d", values)])
@pytest.mark.parametrize(
    ("polygon", "sound"),
    [
        (SQUARE, True),
        (SQUARE[:6], True),
        (SQUARE[:5], False),
        (SQUARE[:4], False),
        (SQUARE[:7], False),
        ([0, 0, 0, 0, 0, 999_999.0], True),
        ([0, 0, 0, 0, 0, 1_000_000.0], False),
        ([0, 0, 0, 0, 0, 1_100_000.0], False),
        ([0, 0, 0, 0, 0, -1_000_000.0], False),
        ([0, 0, 0, 0, 0, -999_999.0], True),
        ([*SQUARE * 10, 2_000_000.0, 5.0], False),
        ([*SQUARE, float("nan"), 5.0], False),
        ([*SQUARE, float("inf"), 5.0], False),
        ([-500_000.0, 0, 500_000, 0] * 10, True),  # an outline of 20 million pixels
        ([-500_000.0, 0, 500_000, 0] * 11, False),
        ([0, -500_000.0, 0, 500_000] * 11, False),
    ],
)
def test_a_polygon_has_three_points_near_the_image_and_no_endless_outline(kind, polygon, sound):
    polygons, rle, counts = read([kind(polygon)])
    assert rle is None
    assert polygons == ([polygon] if sound else [])
    assert counts == ({} if sound else {BROKEN: 1})
    both = read([kind(SQUARE), kind(polygon)])
    assert both[0] == [SQUARE, polygon][: 1 + sound]
    if not sound:
        with pytest.raises(ValueError, match=r"coco\.json: annotation 9 has polygons with under three points.*correct"):
            read([kind(polygon)], strict=True)


@pytest.mark.parametrize("polygon", ["text", 5, None, ["a", *SQUARE[1:]], [[1], [2], [3]], [10**400, *SQUARE[1:]]])
def test_what_is_no_polygon_is_dropped(polygon):
    assert read([polygon, SQUARE]) == ([SQUARE], None, {BROKEN: 1})
    assert read([SQUARE, polygon]) == ([SQUARE], None, {BROKEN: 1})


def test_each_part_is_counted():
    rle = {"size": [60, 80], "counts": [0, 4800]}
    assert read([rle, SQUARE, [1, 2], rle, [3]]) == ([SQUARE], None, {SHARED: 2, BROKEN: 2})
    with pytest.raises(ValueError, match="annotation 9 has RLEs that share a list with others; correct or remove it"):
        read([rle, SQUARE], strict=True)
    assert read(SQUARE) == ([SQUARE], None, {BARE: 1})
    assert read([1, 2, 3]) == ([], None, {BARE: 1, BROKEN: 1})
    for nothing in (None, [], {}, "text", 5):
        assert read(nothing) == ([], None, {})


def test_an_rle_alone_in_a_list_is_one():
    rle = {"size": [60, 80], "counts": [0, 4800]}
    assert read(rle) == read([rle]) == ([], rle, {})


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [80, 60], "counts": [4800]}, r"has an RLE of size \[80, 60\], but its image is \[60, 80\] \(height"),
        ({"counts": [4800]}, r"has an RLE of size None, but its image is \[60, 80\]"),
        (
            {"size": [60, 80], "counts": [4799]},
            "has a broken RLE: the runs of the RLE sum to 4799, .*; export it again",
        ),
        ({"size": [60, 80], "counts": "~"}, "has a broken RLE: .*; export it again or remove it"),
        ({"size": [60, 80], "counts": None}, "has a broken RLE"),
    ],
)
def test_an_rle_that_does_not_fit_is_an_error(rle, message):
    with pytest.raises(ValueError, match=rf"coco\.json: annotation 9 {message}"):
        read(rle)


def test_errors_quote_only_the_start_of_a_long_value():
    with pytest.raises(ValueError, match="size") as caught:
        read({"size": [7] * 1000, "counts": [4800]})
    assert f"size {str([7] * 1000)[:40]}, but" in str(caught.value)


def test_the_box_around_a_mask():
    problems = Problems("coco.json")

    def box(segmentation):
        return mask_box({"id": 9, "segmentation": segmentation}, 60, 80, problems)

    assert box([SQUARE]) == BOX
    assert box([SQUARE, [5, 50, 7, 52, 6, 55]]) == [5, 20, 25, 35]
    assert box({"size": [60, 80], "counts": [65, 3, 57, 3, 4672]}) == [1, 5, 2, 3]
    assert box({"size": [60, 80], "counts": [4800]}) is None
    assert box([[1, 2]]) is None
    assert box(None) is None
    assert problems.counts == {}  # the reader of masks counts them


def test_the_area_of_a_mask_is_pycocotools():
    assert mask_area([SQUARE], None, 60, 80) == 200
    assert mask_area([SQUARE, SQUARE], None, 60, 80) == 200  # the union
    assert mask_area([SQUARE, [40, 20, 50, 20, 50, 30, 40, 30]], None, 60, 80) == 300
    assert mask_area([], {"size": [60, 80], "counts": [65, 3, 4732]}, 60, 80) == 3
    assert mask_area([], None, 60, 80) is None


def loaded(write_dataset, folder, *entries, need_masks=False):
    """Objects on the first image, numbered from 11."""
    full = [{"id": 11 + k, "image_id": 100, "category_id": 3, "bbox": BOX, **e} for k, e in enumerate(entries)]
    return load_annotations(write_dataset(folder, annotations=full), need_masks=need_masks)


MOST = sys.float_info.max


@pytest.mark.parametrize(
    ("area", "kept"),
    [(7.5, 7.5), (MOST, MOST), (7, 7), (1e-9, 1e-9), (0, 200), (-3, 200), (None, 200), ("7", 200), (True, 200),
     (10**255, 1e255), (float("nan"), 200), (float("inf"), 200)],
)  # fmt: skip
def test_the_area_of_the_file_counts_if_it_is_a_positive_number(write_dataset, tmp_path, area, kept):
    annotations = loaded(write_dataset, tmp_path, {"area": area, "segmentation": [SQUARE]})
    assert annotations.to_coco()["annotations"][0]["area"] == kept


def test_without_a_mask_the_area_is_that_of_the_box(write_dataset, tmp_path):
    annotations = loaded(write_dataset, tmp_path, {}, {"area": 30}, {"area": 0, "bbox": [1, 2, 3, 5]})
    assert [entry["area"] for entry in annotations.to_coco()["annotations"]] == [200, 30, 15]


def test_masks_are_packed_in_order(write_dataset, tmp_path):
    text = coco_mask.encode(np.asfortranarray(np.eye(60, 80, dtype=np.uint8)))["counts"].decode()
    rle = {"size": [60, 80], "counts": text}
    empty = {"size": [60, 80], "counts": [4800]}
    other = [40, 20, 50, 20, 50, 30]
    masks = [[SQUARE], None, rle, [SQUARE, other], [[1, 2]], {**rle}, empty, [other]]
    annotations = loaded(write_dataset, tmp_path, *({"segmentation": mask} for mask in masks), need_masks=True)
    found = [annotations.segmentation(0, k) for k in range(8)]
    assert [[p.ravel().tolist() for p in found[k]] for k in (0, 3, 7)] == [[SQUARE], [SQUARE, other], [other]]
    assert found[2] == found[5] == {"size": [60, 80], "counts": text.encode()}
    assert [found[k] for k in (1, 4, 6)] == [None] * 3
    assert annotations._segmentations.known.tolist() == [True, False, True, True, False, True, False, True]
    report = annotations.report
    assert report.ids[MASKLESS] == [12, 15, 17]
    assert report.ids[EMPTY] == [17]
    assert report.ids[BROKEN] == [15]
    again = loaded(write_dataset, tmp_path, *({"segmentation": mask} for mask in masks))
    assert MASKLESS not in again.report.counts


def outline(**corners) -> list[int | float]:
    """The square around the box, with one side moved."""
    left, top, right, bottom = ({"left": 10, "top": 20, "right": 30, "bottom": 30} | corners).values()
    return [left, top, right, top, right, bottom, left, bottom]


@pytest.mark.parametrize("chunk", [1, 2, 3, 65536])
def test_polygons_far_outside_their_box_are_reported(write_dataset, tmp_path, monkeypatch, chunk):
    """Far is more than a width (20) or a height (10) and one pixel."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    near = [{"left": -11}, {"right": 51}, {"top": 9}, {"bottom": 41}]
    far = [{"left": -11.5}, {"right": 51.5}, {"top": 8.5}, {"bottom": 41.5}]
    masks = [[outline(**side)] for side in near] + [[], None] + [[outline(), outline(**side)] for side in far]
    masks += [[], [outline(**far[0]), outline()], [outline()]]
    report = loaded(write_dataset, tmp_path, *({"segmentation": mask} for mask in masks)).report
    assert report.ids[FAR] == [17, 18, 19, 20, 22]
    assert LINE not in report.counts


def line(height: float, turned: bool = False) -> list[float]:
    xs, ys = [12, 32, 22, 17], [22, 22, 22 + height, 22]
    return [float(v) for point in zip(*((ys, xs) if turned else (xs, ys)), strict=True) for v in point]


@pytest.mark.parametrize("chunk", [1, 2, 65536])
def test_polygons_on_one_line_are_reported(write_dataset, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    diagonal, point = [12, 22, 14, 24, 20, 30], [12, 22] * 3
    bow_tie = [12, 22, 22, 30, 22, 22, 12, 30]  # has area zero, too
    masks = [
        [SQUARE], [line(0)], [line(0, True)], None, [SQUARE, diagonal], [point], [bow_tie], [], [line(1e-4)],
        [line(1e-4, True)], [line(1e-6)], [diagonal, SQUARE, line(0)], [SQUARE],
    ]  # fmt: skip
    report = loaded(write_dataset, tmp_path, *({"segmentation": mask, "area": 5} for mask in masks)).report
    assert report.ids[LINE] == [12, 13, 15, 16, 21, 22, 22]


@pytest.mark.parametrize(("mask", "kind"), [([outline(left=-12)], FAR), ([line(0)], LINE)])
def test_a_single_object_is_checked_like_many(write_dataset, tmp_path, mask, kind):
    assert loaded(write_dataset, tmp_path, {"segmentation": mask, "area": 5}).report.ids == {kind: [11]}


def test_the_first_object_may_be_without_a_mask(write_dataset, tmp_path):
    annotations = loaded(write_dataset, tmp_path, {}, {"segmentation": [SQUARE]})
    assert annotations._segmentations.known.tolist() == [False, True]
    assert annotations.segmentation(0, 0) is None


def test_numbers_far_away_are_limited_like_boxes():
    assert FARTHEST == 1e6
    assert json.loads("1e6") == FARTHEST
