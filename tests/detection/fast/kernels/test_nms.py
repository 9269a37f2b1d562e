"""NMS by the GPU kernel compared with the CPU; interpreted on machines without a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.ops import nms as plain
from detection.ops.boxes import area
from tests.support.kernels import DEVICE, kernels

kernel = kernels("detection.fast.kernels.nms")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, for what lies beyond the lists


def lists(number, length, seed, grid=1.0):
    """Overlapping boxes by falling score; on a grid many IoUs are the same fractions."""
    generator = torch.Generator().manual_seed(seed)
    corner, side = (
        torch.rand(number, length, 2, generator=generator) * 30,
        torch.rand(number, length, 2, generator=generator),
    )
    boxes = torch.cat([corner, corner + side * 30 + 1], dim=-1)
    boxes = (boxes / grid).round() * grid if grid else boxes
    return boxes, torch.rand(number, length, generator=generator).sort(dim=1, descending=True).values


def on_device(boxes, scores, threshold):
    boxes, scores = boxes.to(DEVICE), scores.to(DEVICE)
    valid = scores.isfinite() & boxes.isfinite().all(dim=-1)
    return kernel.greedy(boxes, area(boxes), valid, plain.rounded_threshold(threshold, boxes.dtype)).cpu()


@settings(max_examples=6, deadline=None)
@given(
    number=st.integers(1, 3),
    length=st.integers(0, 75),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    grid=st.sampled_from([0.0, 1.0, 5.0]),
)
def test_the_same_boxes_survive(number, length, seed, threshold, grid):
    boxes, scores = lists(number, length, seed, grid)
    if length > 5:  # padding, and boxes that are none
        scores[0, -2:] = -torch.inf
        boxes[-1, 1, 2], boxes[-1, 3] = torch.nan, torch.inf
    assert torch.equal(on_device(boxes, scores, threshold), plain.nms(boxes, scores, threshold))


@pytest.mark.slow
def test_a_list_of_several_words_and_rows():
    boxes, scores = lists(2, 300, seed=1, grid=0)
    expected = plain.nms(boxes, scores, 0.5)
    assert 0.2 < expected.float().mean() < 0.8
    assert torch.equal(on_device(boxes, scores, 0.5), expected)
