"""Drawn images show boxes, masks and names, and unusual input raises no error."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection import visualize
from detection.shapes import COLOURS
from detection.visualize import SHORTEST, draw, enlarged, palette, side_by_side, stretched

GRAY = np.full((700, 900, 3), 128, dtype=np.uint8)
NAMES = ["cat", "dog", "Straßenschild"]


def mask(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    frame = np.zeros(shape, dtype=bool)
    frame[rows, columns] = True
    return frame


def test_box_mask_and_label_are_where_they_belong() -> None:
    boxes = np.array([[100, 200, 400, 500.0]])
    masks = mask((700, 900), slice(250, 450), slice(150, 350))[None]
    picture = draw(GRAY, boxes, np.array([1]), np.array([0.9]), masks, NAMES)
    color = np.array(palette(2)[1])
    assert picture.shape == GRAY.shape
    assert (GRAY == 128).all()  # the image itself is left alone
    np.testing.assert_array_equal(picture[350, 100], color)  # left side of the box
    np.testing.assert_allclose(picture[350, 250], 0.6 * 128 + 0.4 * color, atol=1)  # inside the mask
    np.testing.assert_array_equal(picture[230, 250], [128] * 3)  # in the box, outside the mask
    np.testing.assert_array_equal(picture[195, 102], color)  # ground of the label, above the box
    assert not np.array_equal(draw(GRAY, boxes, np.array([1]), None, masks, NAMES), picture)  # no score


@pytest.mark.parametrize("side", [1, 8, 100, 640, 3000])
def test_any_size(side: int) -> None:
    image = np.zeros((side, max(side // 2, 1), 3), dtype=np.uint8)
    boxes = np.array([[0, 0, side / 2, side]])
    masks = np.ones((1, *image.shape[:2]), dtype=bool)
    picture = draw(image, boxes, np.array([2]), np.array([0.5]), masks, NAMES)
    assert max(picture.shape) >= SHORTEST
    assert picture.shape[0] % side == 0
    assert picture.any()


def test_lines_and_text_grow_with_the_image() -> None:
    drawn = []
    for scale in (1, 4):
        image = np.zeros((700 * scale, 900 * scale, 3), dtype=np.uint8)
        picture = draw(image, np.array([[100, 200, 400, 500]]) * scale, np.array([0]), None, None, NAMES)
        drawn.append(picture.any(axis=2).mean())
    assert drawn[1] == pytest.approx(drawn[0], rel=0.5)  # of fixed size, they would cover 4 to 16 times less


def test_odd_input() -> None:
    nothing = draw(GRAY, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros((0, 700, 900), bool), NAMES)
    assert np.array_equal(nothing, GRAY)
    bad = np.array([[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [10, 10, 50, 50]])
    assert np.array_equal(draw(GRAY, bad, np.array([0, 0, -1]), None, None, NAMES), GRAY)
    outside = np.array([[-500, -500, 2000, 2000], [5000, 5000, 6000, 6000], [50, 50, 10, 10]])
    assert draw(GRAY, outside, np.array([0, 1, 99]), np.ones(3), None, NAMES).shape == GRAY.shape
    empty = np.zeros((1, 700, 900), dtype=bool)
    draw(GRAY, np.array([[10, 10, 50, 50]]), np.array([0]), None, empty, NAMES)
    assert draw(GRAY[:, ::-1], outside[:1], np.array([0]), None, None, []).shape == GRAY.shape  # not contiguous


def test_labels_never_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    grounds = []
    rectangle = cv2.rectangle

    def record(picture: np.ndarray, start: tuple, end: tuple, color: tuple, thickness: int, *rest: int) -> np.ndarray:
        if thickness == cv2.FILLED:
            grounds.append((*start, *end))
        return rectangle(picture, start, end, color, thickness, *rest)

    monkeypatch.setattr(cv2, "rectangle", record)
    boxes = np.tile([[300, 300, 420, 400.0]], (40, 1)) + np.random.default_rng(0).normal(0, 10, (40, 4))
    draw(GRAY, boxes, np.zeros(40, int), np.linspace(1, 0, 40), None, NAMES)
    assert 3 < len(grounds) < 40
    for i, a in enumerate(grounds):
        assert min(a) >= 0
        assert a[2] < 900
        assert a[3] < 700
        assert not any(a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3] for b in grounds[:i])


def test_objects_of_a_single_class_have_their_own_colors() -> None:
    boxes = np.array([[100, 100, 300, 300], [500, 100, 700, 300.0]])
    picture = draw(GRAY, boxes, np.array([0, 0]), None, None, ["nucleus"])
    assert not np.array_equal(picture[200, 100], picture[200, 500])
    picture = draw(GRAY, boxes, np.array([0, 0]), None, None, NAMES)
    assert np.array_equal(picture[200, 100], picture[200, 500])


def test_palette_is_stable_and_far_apart() -> None:
    assert palette(80)[:20] == palette(20)
    assert len(palette(1000)) == 1000
    lab = cv2.cvtColor(np.array([palette(20)], dtype=np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(20)
    assert distance.min() > 25  # a difference of 2.3 can just be seen


def test_side_by_side() -> None:
    left, right = np.zeros((100, 200, 3), np.uint8), np.full((80, 150, 3), 255, np.uint8)
    picture = side_by_side(left, right)
    assert picture.shape[0] > 100
    assert picture.shape[1] > 350
    assert not picture[-100:, :200].any()
    assert picture[:20, :200].min() < 100  # the caption
    assert side_by_side(left[:, :3], right, ("a caption wider than its picture", "")).ndim == 3


def draw_whole(picture, mask, color, enlarge, line, tint, light):  # type: ignore[no-untyped-def]
    """A mask drawn over the whole picture, in place: every pixel is tinted, every outline is traced."""
    large = enlarged(mask.astype(np.uint8), enlarge)
    inside = large > 0
    picture[inside] = np.rint((1 - tint) * picture[inside] + tint * np.array(color))
    outlines, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, tuple((c + 255) // 2 for c in color), max(1, line // 2), cv2.LINE_AA)


@pytest.mark.parametrize(("height", "width"), [(40, 60), pytest.param(700, 641, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["rle", "bitmap"])
def test_masks_drawn_in_their_boxes_are_those_drawn_over_the_whole(height, width, form, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    blobs = cv2.GaussianBlur(random.normal(size=(height, width, 6)).astype(np.float32), (0, 0), 4)
    masks = (blobs > 0.03).transpose(2, 0, 1)
    masks[0, 8:, :] = False  # at a border
    masks[1, :, : width // 2] = False
    masks[2] = False
    masks[2, 20, 30] = True  # one pixel
    masks[3] = False
    masks[4, :, :] = True
    boxes = np.tile([[5, 5, 30, 30.0]], (6, 1))
    labels = np.arange(6)
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    drawn = draw(image, boxes, labels, np.linspace(1, 0, 6), rles if form == "rle" else masks, list("abcdef"))
    monkeypatch.setattr(visualize, "_patch", lambda mask, shape: mask)
    monkeypatch.setattr(visualize, "_draw_mask", draw_whole)
    assert np.array_equal(drawn, draw(image, boxes, labels, np.linspace(1, 0, 6), masks, list("abcdef")))


def test_a_mask_of_another_size_is_named() -> None:
    for masks in ([{"size": [5, 6], "counts": [30]}], np.zeros((1, 5, 6), bool)):
        with pytest.raises(ValueError, match=r"a mask of \(5, 6\) pixels does not fit an image of \(700, 900\)"):
            draw(GRAY, np.array([[0, 0, 5, 5.0]]), np.array([0]), None, masks, NAMES)


def test_masks_have_other_colors_than_the_synthetic_shapes() -> None:
    colors = np.array([palette(len(COLOURS)), [*COLOURS.values()]], dtype=np.float32) / 255
    overlay, objects = cv2.cvtColor(colors, cv2.COLOR_RGB2LAB)
    assert np.linalg.norm(overlay - objects, axis=1).min() > 80


def test_an_enlarged_mask_is_round_keeps_its_area_and_no_pixel_is_lost() -> None:
    y, x = np.mgrid[:40, :40]
    disc = (np.hypot(y - 19.5, x - 19.5) < 14).astype(np.uint8)
    large = enlarged(disc, 6)
    assert large.sum() / 36 == pytest.approx(disc.sum(), rel=0.01)
    outline = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0]
    distance = np.hypot(*(outline - 119.5).T)
    assert np.ptp(distance) < 0.6 * 6  # the steps of the original pixels were higher
    dot = np.zeros((9, 9), np.uint8)
    dot[4, 4] = 1
    assert enlarged(dot, 4).any()
    assert enlarged(dot, 1) is dot


def test_a_mask_of_a_tiny_image_is_rounded_at_a_smaller_size_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, one pixel would take seconds: its blur has a deviation of 640 pixels."""
    disc = np.hypot(*np.mgrid[-12:12, -12:12] + 0.5) < 9
    in_two_steps = enlarged(disc.astype(np.uint8), 24)
    monkeypatch.setattr(visualize, "SHARPEST", 24)
    assert (in_two_steps != enlarged(disc.astype(np.uint8), 24)).mean() < 0.002


def test_dark_images_are_stretched_and_others_are_left_alone() -> None:
    dark = np.random.default_rng(0).integers(5, 40, (50, 60, 3), np.uint8)
    image, changed = stretched(dark)
    assert changed
    assert image.min() == 0
    assert image.max() == 255
    same, changed = stretched(dark + 150)
    assert not changed
    assert np.array_equal(same, dark + 150)
    assert not stretched(np.zeros((5, 5, 3), np.uint8))[1]
    assert stretched(np.linspace(0, 900, 100).reshape(10, 10, 1).astype(np.uint16))[0].max() == 255


def test_labels_need_room() -> None:
    boxes = np.array([[100, 200, 130, 230], [400, 200, 700, 500.0]])
    small, large = (draw(GRAY, boxes[k : k + 1], np.array([0]), None, None, NAMES, label_room=3) for k in (0, 1))
    bare = draw(GRAY, boxes[:1], np.array([0]), None, None, NAMES, with_names=False)
    assert np.array_equal(small, bare)
    assert not np.array_equal(large, draw(GRAY, boxes[1:], np.array([0]), None, None, NAMES, with_names=False))


def test_given_colors_are_taken() -> None:
    boxes = np.array([[100, 100, 300, 300], [500, 100, 700, 300.0]])
    picture = draw(GRAY, boxes, np.array([0, 1]), None, None, NAMES, colors=[(1, 2, 3), (4, 5, 6)])
    assert picture[200, 100].tolist() == [1, 2, 3]
    assert picture[200, 500].tolist() == [4, 5, 6]
