import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from detection.formats.outlines import MOST_PARTS, area, joined, outlines, rle_outlines

MASKS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))


def inside(polygon: np.ndarray, x: float, y: float) -> bool:
    """By the even-odd rule, in a slow obvious loop."""
    odd = False
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_one_polygon_covers_the_pixels_of_a_bitmap_with_its_parts_and_holes(mask):
    if not mask.any():
        assert outlines(mask) == []
        return
    polygon = joined(outlines(mask))
    drawn = [[inside(polygon, x + 0.5, y + 0.5) for x in range(mask.shape[1])] for y in range(mask.shape[0])]
    assert np.array_equal(drawn, mask)


def test_a_ring_has_two_outlines_that_run_against_each_other():
    ring = np.ones((5, 5), np.uint8)
    ring[2, 2] = 0
    outer, hole = outlines(ring)
    # 25 less the four corners, each an eighth; a diamond between the middles of the four sides of the hole.
    assert (area(outer), area(hole)) == (24.5, 0.5)
    assert {tuple(point) for point in hole.tolist()} == {(2.5, 2), (3, 2.5), (2.5, 3), (2, 2.5)}
    x, y = outer.T
    assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() == 49
    x, y = hole.T
    assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() == -1


def test_pixels_that_touch_at_a_corner_are_one_part():
    assert len(outlines(np.eye(4, dtype=np.uint8))) == 1


def test_outlines_reach_to_the_box_of_the_mask():
    mask = np.zeros((30, 40), np.uint8)
    mask[3:20, 5:9] = 1
    (outline,) = rle_outlines(coco_mask.encode(np.asfortranarray(mask)))
    assert outline.min(axis=0).tolist() == [5, 3]
    assert outline.max(axis=0).tolist() == [9, 20]


def test_a_mask_of_noise_keeps_its_largest_parts():
    mask = np.zeros((60, 60), np.uint8)
    mask[::3, ::3] = 1  # 400 parts
    mask[50:, 50:] = 1
    parts = outlines(mask)
    assert len(parts) > 300
    assert len(joined(parts)) <= sum(len(part) + 2 for part in parts[:MOST_PARTS])
    assert inside(joined(parts), 55.5, 55.5)


@pytest.mark.slow
def test_real_masks_lose_no_pixel(shared_data):
    from detection.coco.annotations import load_annotations

    content = load_annotations(shared_data / "nuclei/annotations/instances_val.json").to_coco()
    for entry in content["annotations"][::20]:
        rle = entry["segmentation"]
        polygon = joined(rle_outlines({**rle, "counts": rle["counts"].encode()}))
        drawn = coco_mask.merge(coco_mask.frPyObjects([polygon.ravel().tolist()], *rle["size"]))
        assert coco_mask.iou([drawn], [rle], [0])[0, 0] == pytest.approx(1)
