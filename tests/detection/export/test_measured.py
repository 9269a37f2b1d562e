"""The program that measures the exports of every architecture for the documentation."""

import numpy as np

from detection.export.gate import Difference, Gate, Tolerances
from tests.support.exported_models import MODELS
from tests.test_docs import tool


def test_the_program_of_exports_makes_plausible_weights_and_rows(tmp_path) -> None:
    exports = tool("exports")
    outputs = []
    model = exports.plausible(MODELS["mask_rcnn"], 64)
    model.box_head.logits.register_forward_hook(lambda layer, given, x: outputs.append(float(x.std())))
    found = exports.detect(model, [np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)])[0]
    assert len(found.scores)
    assert 1 < outputs[0] < 4
    gate = Gate(Tolerances(), (Difference("a", 5, 2e-4, 1e-5, None, None, 0, 0),), "engine")
    row = exports.row_of("Mask R-CNN", "onnx", gate, tmp_path)
    assert row["passed"]
    assert row["boxes"] == 2e-4
    assert row["masks"] is row["semantic"] is None
    assert "| Mask R-CNN | onnx | passed | 0.0002 | 1e-05 | – |" in tool("results").exports([row])
