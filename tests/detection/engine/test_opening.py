"""The first lines that a run prints."""

import pytest
import torch

from backbones import BackboneConfig, build
from detection.engine.opening import frozen_table, opening


@pytest.mark.parametrize(
    ("stage", "processes", "precision", "folder", "line"),
    [
        ("fit", 1, "bf16-mixed", "runs/a", "Training on CPU in bf16 (mixed), into runs/a"),
        ("fit", 2, "32-true", "runs/a", "Training on 2 x CPU in float32, into runs/a"),
        ("validate", 1, "32-true", "runs/a", "Evaluating on CPU in float32"),
        ("predict", 1, "transformer-engine", None, "Predicting on CPU in transformer-engine"),
    ],
)
def test_one_line_names_device_precision_and_folder(stage, processes, precision, folder, line):
    assert opening(stage, torch.device("cpu"), processes, precision, folder) == line


def test_the_table_of_a_frozen_backbone():
    with torch.device("meta"):
        rows = frozen_table(build(BackboneConfig("resnet18", freeze=("stem",)))).splitlines()
    # 64 * 3 * 7 * 7 and a norm of 64; two blocks of two 3 x 3 convolutions of 64 with norms
    assert rows[1].split() == ["stem", "0", f"{64 * 3 * 49 + 128:,}"]
    assert rows[2].split() == ["layer1", f"{4 * (64 * 64 * 9 + 128):,}", "0"]
    assert len(rows) == 6
    with torch.device("meta"):
        rows = frozen_table(build(BackboneConfig("vit_b_16"))).splitlines()
    assert rows[-1].startswith("others")  # the pyramid
