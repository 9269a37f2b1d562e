"""Operations use their kernels if these are usable, and other code if results must be equal bit for bit."""

import pytest
import torch

from detection.fast import matching, nms, roi_align
from detection.fast.levels import levels_from_maps
from detection.fast.pasting import paste_masks
from tests.support.kernels import DEVICE, kernels


@pytest.fixture
def taken(monkeypatch):
    """Names of the kernels that were taken, on a device that pretends not to be a CPU if there is no GPU."""
    calls = []
    for name, function in (("nms", "greedy"), ("matching", "compare"), ("roi_align", "pool"), ("paste", "paste")):
        module = kernels(f"detection.fast.kernels.{name}")
        original = getattr(module, function)

        def noted(*arguments, name=name, original=original):
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(module, function, noted)
    monkeypatch.setattr("backbones.fast.kernels.usable", lambda x: True)
    return calls


BOXES = torch.tensor([[[0.0, 0, 8, 8], [1, 0, 8, 8], [4, 4, 16, 12]]])


def test_matching_pasting_and_roi_align(taken):
    boxes = BOXES.to(DEVICE)
    matching.match_boxes(boxes, torch.zeros(1, 3, dtype=torch.bool, device=DEVICE), boxes, 0.3, 0.5)
    paste_masks(torch.rand(3, 4, 4, device=DEVICE), boxes[0], 12, 16)
    levels = levels_from_maps([torch.randn(1, 4, 3, 4, device=DEVICE).to(memory_format=torch.channels_last)])
    roi_align.roi_align(levels, (4,), boxes, 2)
    assert taken == ["matching", "paste", "roi_align"]


def test_numbers_of_other_kinds_go_other_ways(taken):
    boxes = BOXES.to(DEVICE).double()
    matching.match_boxes(boxes, torch.zeros(1, 3, dtype=torch.bool, device=DEVICE), boxes, 0.3, 0.5)
    levels = levels_from_maps([torch.randn(1, 4, 3, 4, device=DEVICE).to(memory_format=torch.channels_last)])
    roi_align.roi_align(levels._replace(vectors=levels.vectors.double()), (4,), boxes, 2)
    roi_align.roi_align(levels, (4,), boxes.float(), 2, sampling_ratio=0)
    torch.use_deterministic_algorithms(True)
    try:
        roi_align.roi_align(levels, (4,), boxes.float(), 2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert taken == []


@pytest.mark.skipif(DEVICE == "cpu", reason="a processor has a loop of its own")
def test_nms(taken):
    nms.nms_on_gpu(BOXES.to(DEVICE), torch.tensor([[0.9, 0.8, 0.7]], device=DEVICE), 0.5)
    assert taken == ["nms"]
