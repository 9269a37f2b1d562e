"""Full frames by the GPU kernel compared with the CPU; interpreted on machines without a GPU."""

import pytest
import torch

from detection.fast.pasting import paste_masks
from tests.support.kernels import DEVICE, kernels

paste = kernels("detection.fast.kernels.paste")


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.9])
def test_frames_are_those_of_the_cpu(threshold):
    masks = torch.rand(7, 6, 6, generator=torch.Generator().manual_seed(0))
    masks[0, 2, 3] = torch.nan
    boxes = torch.tensor(
        [[3.3, 2.1, 40.2, 30.7], [-5, -4, 20, 60], [10, 10, 10, 20], [0, 0, 64, 48], [30, 30, 31, 31.5], [9, 9, 5, 30]]
    )
    boxes = torch.cat([boxes, torch.tensor([[torch.nan, 0, 1, 2]])])
    expected = paste_masks(masks, boxes, 48, 64, threshold)
    found = paste.paste(masks.to(DEVICE), boxes.to(DEVICE), 48, 64, threshold)
    assert expected.any()
    assert torch.equal(found.cpu(), expected)
