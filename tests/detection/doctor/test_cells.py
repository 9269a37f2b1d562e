"""The number of cells of an object is that of the detector's own assignment."""

import numpy as np
import pytest
import torch

from detection.doctor.cells import cells_table, positive_cells
from detection.models.fcos import FCOSConfig, FCOSHead
from detection.ops.centres import assign

STRIDES = (8, 16, 32, 64, 128)


@pytest.mark.parametrize("config", [FCOSConfig(convs=0), FCOSConfig(convs=0, radius=2.5, reach=4.0, offset=0.0)])
def test_cells_are_those_of_the_detector(config):
    random = np.random.default_rng(0)
    corner, extent = random.uniform(0, 200, (60, 2)), random.uniform(1, 250, (60, 2))
    boxes = np.concatenate([corner, np.minimum(corner + extent, (320, 256))], axis=1)
    sizes = np.tile([256, 320], (60, 1))
    head = FCOSHead(8, 1, STRIDES, config)
    features = [torch.zeros(1, 8, -(-256 // stride), -(-320 // stride)) for stride in STRIDES]
    points = head.points(head.canvas_anchors(features, (256, 320)))
    truth = torch.from_numpy(boxes).float()[:, None]  # each alone in its image
    _, label = assign(truth, torch.zeros(60, 1, dtype=torch.bool), points, config.radius)
    assert positive_cells(boxes.astype(np.float32), sizes, STRIDES, config).tolist() == (label == 1).sum(dim=1).tolist()


def test_the_table_counts_objects_without_a_cell():
    rows = cells_table(np.array([0, 2, 4]), np.array([5.0, 10, 40]))
    assert rows[0] == ("0 to 16 px", 2, 1.0, 0.5)
    assert rows[-1] == ("all", 3, 2.0, pytest.approx(1 / 3))
