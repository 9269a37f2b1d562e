"""The whole detector exports with ``torch.export``; NMS and the selection of detections are opaque nodes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detection import fast
from detection.structures import IGNORE


class Plain(nn.Module):
    """The detector with a tuple as its result."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images, sizes))


@pytest.mark.parametrize("tiny", ["fast"], indirect=True)  # it is converted back
@pytest.mark.parametrize("threshold", [0.0, pytest.param(0.999, marks=pytest.mark.slow)], ids=["detections", "none"])
def test_the_whole_detector_is_exported_with_operators_as_opaque_nodes(tiny, make_batch, threshold):
    model = fast.revert(tiny).eval()
    model.box_head.config = replace(model.box_head.config, score_threshold=threshold)
    given = make_batch([[], []], sizes=[(96, 128), (70, 90)], seed=1)[:2]
    with torch.no_grad():
        program = torch.export.export(Plain(model), given)
        other = make_batch([[], []], sizes=[(90, 128), (96, 101)], seed=2)[:2]
        for example in (given, other):
            found, expected = program.module()(*example), model(*example)
            assert bool((expected.labels != IGNORE).any()) == (threshold == 0)
            for mine, reference in zip(found, expected, strict=True):
                torch.testing.assert_close(mine, reference)
    nodes = [str(node.target) for node in program.graph.nodes]
    assert nodes.count("rcnn.nms.default") == nodes.count("rcnn.select_detections.default") == 1
