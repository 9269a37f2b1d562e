import numpy as np
import pytest
import torch

from detection.doctor.anchors import anchors_per_cell, best_overlap, loses, recall_table, suggest
from detection.models.anchors import AnchorConfig, Anchors
from detection.ops.boxes import iou

STRIDES = (4, 8, 16, 32, 64)


def objects(number: int, canvas: tuple[int, int], seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    height, width = canvas
    side = np.exp(generator.uniform(np.log(4), np.log(150), (number, 2)))
    corner = generator.uniform(0, 1, (number, 2)) * np.maximum([width, height] - side, 0)
    return np.concatenate([corner, np.minimum(corner + side, [width, height])], axis=1)


@pytest.mark.parametrize(
    "config",
    [
        AnchorConfig(),
        AnchorConfig(sizes=((8, 11), (16, 22), (32, 45), (64, 90), (128, 181)), ratios=(0.3, 1.0, 1.7, 4.0)),
    ],
)
@pytest.mark.parametrize("canvas", [(160, 224), (96, 320)])
def test_the_nearest_centre_has_the_best_anchor_of_all(config, canvas):
    boxes = objects(60, canvas)
    grids = [(-(-canvas[0] // s), -(-canvas[1] // s)) for s in STRIDES]
    every = Anchors(STRIDES, config)(canvas, grids, torch.device("cpu")).boxes
    expected = iou(torch.from_numpy(boxes).float(), every).amax(dim=1)
    found = best_overlap(boxes, np.tile(canvas, (60, 1)), STRIDES, config)
    assert found == pytest.approx(expected.numpy(), abs=1e-4)


def test_suggested_anchors_fit_small_and_long_objects_better():
    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 150, (500, 2))
    boxes = np.concatenate([corner, corner + generator.uniform([20, 5], [30, 8], (500, 2))], axis=1)
    sizes = np.tile((224, 224), (500, 1))
    before = best_overlap(boxes, sizes, STRIDES, AnchorConfig()).mean()
    config = suggest(boxes, sizes, STRIDES, AnchorConfig())
    assert config is not None
    after = best_overlap(boxes, sizes, STRIDES, config).mean()
    assert after > before + 0.2
    assert len(config.sizes) == 5
    Anchors(STRIDES, config)  # is a config that can be built


def test_the_table_counts_each_object_once():
    sides = np.array([4.0, 20, 20, 50, 500])
    rows = recall_table(np.array([0.4, 0.5, 0.9, 0.7, 0.1]), sides)
    assert [row[:2] for row in rows] == [
        ("0 to 16 px", 1), ("16 to 32 px", 2), ("32 to 64 px", 1), ("over 256 px", 1), ("all", 5),
    ]  # fmt: skip
    assert rows[-1][2:] == pytest.approx((0.52, 0.6, 0.4))


def test_suggested_anchors_lower_the_recall_of_no_size_group():
    canvas = (224, 224)
    boxes, current = objects(800, canvas, seed=3), AnchorConfig(sizes=(8, 16, 32, 64, 128))
    sizes, sides = np.tile(canvas, (800, 1)), np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    before = best_overlap(boxes, sizes, STRIDES, current)
    config = suggest(boxes, sizes, STRIDES, current)
    if config is not None:
        after = best_overlap(boxes, sizes, STRIDES, config)
        assert after.mean() > before.mean()
        assert not loses(before, after, sides)


def test_no_anchors_are_suggested_for_objects_that_the_current_ones_fit_exactly():
    centres = np.arange(40, 200, 32, dtype=float)
    boxes = np.stack([centres - 16, centres - 16, centres + 16, centres + 16], axis=1)
    sizes = np.tile((256, 256), (len(boxes), 1))
    assert suggest(boxes, sizes, STRIDES, AnchorConfig(sizes=(32, 64, 128, 256, 512))) is None


def test_a_size_group_that_loses_is_noticed_though_the_mean_rises():
    sides = np.array([10.0, 40, 40, 40])
    before, after = np.array([0.6, 0.3, 0.3, 0.3]), np.array([0.4, 0.9, 0.9, 0.9])
    assert loses(before, after, sides)
    assert not loses(after, after, sides)


def test_anchors_of_a_cell_are_counted():
    assert anchors_per_cell(AnchorConfig(sizes=((8, 11), (16, 22)), ratios=(0.5, 1.0, 2.0))) == 6
