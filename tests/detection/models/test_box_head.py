"""Repeated box refinement, compared with a loop over detections."""

from dataclasses import replace

import pytest
import torch

from detection.models.box_head import BoxHead, BoxHeadConfig
from detection.ops.boxes import clip, decode
from detection.structures import IGNORE, Detections


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_refinement_equals_a_loop_over_detections(class_agnostic: bool, times: int) -> None:
    torch.manual_seed(0)
    config = BoxHeadConfig(hidden=8, class_agnostic=class_agnostic, refinements=times, min_size=1.0)
    head = BoxHead(4, 3, (4,), config).eval()
    torch.nn.init.normal_(head.deltas.weight, std=2.0)
    features, sizes = [torch.randn(2, 4, 16, 16)], torch.tensor([[60, 64], [50, 40]])
    corners = torch.rand(2, 6, 2) * 30
    boxes = torch.cat([corners, corners + 2 + torch.rand(2, 6, 2) * 20], dim=-1)
    labels = torch.tensor([[0, 1, 2, 2, 1, 0], [2, 0, 1, 1, IGNORE, IGNORE]])
    boxes[labels == IGNORE] = 0
    scores = torch.rand(2, 6)
    with torch.no_grad():
        found = head.refine(features, Detections(boxes, scores, labels), sizes)
        for i in range(2):
            for j in range(6):
                box = boxes[i, j]
                for _ in range(times if labels[i, j] != IGNORE else 0):
                    deltas = head([features[0][i : i + 1]], box[None, None])[1][0, 0]
                    own = deltas[0 if class_agnostic else labels[i, j]]
                    moved = clip(decode(own, box, config.weights)[None, None], sizes[i : i + 1])[0, 0]
                    if (moved[2:] - moved[:2]).min() >= 1:
                        box = moved
                assert found.boxes[i, j].tolist() == pytest.approx(box.tolist(), abs=1e-3)
    assert found.scores is scores
    assert torch.equal(found.boxes, boxes) == (times == 0)


def test_masks_are_made_in_the_moved_boxes(tiny_model) -> None:
    images, sizes = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8), torch.tensor([[60, 90]])
    plain = tiny_model(images, sizes)
    head = tiny_model.box_head
    weight = head.deltas.weight.data.clone()
    try:
        head.config = replace(head.config, refinements=1)
        torch.nn.init.normal_(head.deltas.weight, std=2.0)
        moved = tiny_model(images, sizes)
        again = tiny_model.mask_head.detect(tiny_model.features(images, sizes), moved)
    finally:
        head.config, head.deltas.weight.data = replace(head.config, refinements=0), weight
    assert torch.equal(again.masks, moved.masks)
    assert torch.equal(tiny_model(images, sizes).boxes, plain.boxes)
