"""Polygons drawn all at once, compared with the ray test and pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detection.ops.polygons import _outline, polygons_to_bitmaps


def inside_even_odd(x: float, y: float, polygon: np.ndarray) -> bool:
    """The textbook ray test."""
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def plain_fill(polygon: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Row by row: a cell is inside if an odd number of edges cross its row's centre line left of its centre."""
    points = (polygon - box[:2]) * (size / (box[2:] - box[:2]))
    centres = np.arange(size) + 0.5
    inside = np.zeros((size, size), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        for row in np.flatnonzero((y0 <= centres) & (centres < y1)):
            inside[row] ^= centres >= x0 + (centres[row] - y0) * (x1 - x0) / (y1 - y0)
    return inside


def frame_from_bitmap(bitmap: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """The full frame of a bitmap: each pixel centre takes the cell it falls into."""
    size = len(bitmap)
    i = np.floor((np.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * size).astype(int)
    j = np.floor((np.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * size).astype(int)
    inside = ((i >= 0) & (i < size))[:, None] & ((j >= 0) & (j < size))
    return bitmap[i.clip(0, size - 1)[:, None], j.clip(0, size - 1)] * inside


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def bitmap_of(polygons: list[np.ndarray], box: np.ndarray, size: int = 112) -> np.ndarray:
    return polygons_to_bitmaps([polygons], box[None], size)[0]


class TestPolygons:
    def test_square_by_hand(self) -> None:
        # In the frame of (10, 20, 18, 24), 4 x 4 cells of 2 x 1 pixels, the square covers columns 1-2, rows 1-3.
        square = np.array([[12, 21], [16, 21], [16, 24], [12, 24.0]])
        expected = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
        assert bitmap_of([square], np.array([10, 20, 18, 24.0]), size=4).tolist() == expected

    def test_equals_the_ray_test_at_every_cell_centre(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(20):
            polygon = random.uniform(-5, 25, (random.integers(3, 9), 2))  # self-crossing, and over the box
            bitmap = bitmap_of([polygon], np.array([0, 0, 20, 10.0]), size=10)
            expected = [[inside_even_odd(2 * (j + 0.5), i + 0.5, polygon) for j in range(10)] for i in range(10)]
            if np.any(expected):
                np.testing.assert_array_equal(bitmap, np.array(expected, dtype=np.uint8))

    @pytest.mark.slow
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 63, 64, 65, 112, 130]))
    def test_all_at_once_are_what_each_is_alone_and_what_a_plain_fill_makes(self, seed: int, size: int) -> None:
        random = np.random.default_rng(seed)
        low = random.uniform(-10, 10, (40, 2))
        boxes = np.concatenate([low, low + random.uniform(0.5, 30, (40, 2))], axis=1)
        objects = [
            [random.uniform(-20, 50, (random.integers(1, 9), 2)) for _ in range(random.integers(0, 4))] for _ in boxes
        ]
        together = polygons_to_bitmaps(objects, boxes, size)
        for drawn, polygons, box in zip(together, objects, boxes, strict=True):
            np.testing.assert_array_equal(drawn, bitmap_of(polygons, box, size))
            filled = [plain_fill(polygon, box, size) for polygon in polygons]
            expected = np.any([*filled, np.zeros((size, size), dtype=bool)], axis=0)
            assert drawn[expected].all()
            if all(part.any() for part in filled):  # else outlines come to it
                np.testing.assert_array_equal(drawn, expected)

    def test_union_over_polygons(self) -> None:
        box = np.array([0, 0, 8, 8.0])
        left, right = np.array([[0, 0], [5, 0], [5, 8], [0, 8.0]]), np.array([[3, 0], [8, 0], [8, 8], [3, 8.0]])
        assert bitmap_of([left, right], box, size=8).all()

    def test_thin_polygon_does_not_vanish(self) -> None:
        thin = np.array([[0, 50.1], [100, 50.1], [100, 50.2], [0, 50.2]])
        bitmap = bitmap_of([thin], np.array([0, 0, 100, 100.0]), size=10)
        assert bitmap[5].all()
        assert bitmap.sum() == 10

    def test_no_polygon_and_polygon_outside_the_box(self) -> None:
        box = np.array([0, 0, 10, 10.0])
        assert not bitmap_of([], box).any()
        assert not bitmap_of([np.array([[20, 20], [30, 20], [30, 30.0]])], box).any()
        assert bitmap_of([np.array([[-1e8, -1e8], [1e8, -1e8], [1e8, 1e8], [-1e8, 1e8]])], box).all()

    def test_agrees_with_pycocotools_on_real_objects(self, shared_data: Path) -> None:
        coco = json.loads((shared_data / "coco_eval_reference/instances_val2014_100.json").read_text())
        images = {image["id"]: image for image in coco["images"]}
        agreement = []
        for annotation in coco["annotations"][:60]:
            if annotation["iscrowd"]:
                continue
            height, width = (images[annotation["image_id"]][key] for key in ("height", "width"))
            flat = annotation["segmentation"]
            judge = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, height, width)))
            x, y, w, h = annotation["bbox"]
            box = np.array([x, y, x + w, y + h])
            bitmap = bitmap_of([np.reshape(p, (-1, 2)) for p in flat], box)
            agreement.append(mask_iou(frame_from_bitmap(bitmap, box, height, width), judge))
        # pycocotools rounds outlines to fifths of a pixel and fills by its own rule: half a pixel around small objects.
        assert np.mean(agreement) > 0.975
        assert np.min(agreement) > 0.9


def test_an_outline_that_leaves_the_window_marks_nothing_on_the_other_side():
    points = np.array([[-0.6, -0.6], [2.5, -0.6], [2.5, 2.5], [-0.6, 2.5]])
    bitmap = _outline(points, 8)
    assert bitmap[:, 3:].sum() == bitmap[3:, :].sum() == 0
    assert bitmap[2, :3].all()
    assert bitmap[:3, 2].all()


def test_a_bitmap_has_112_cells_a_side_unless_told():
    box = np.array([[0.0, 0, 4, 4]])
    square = [[np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])]]
    assert polygons_to_bitmaps(square, box).shape == (1, 112, 112)
