"""Matching by the GPU kernel compared with the CPU; interpreted on machines without a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.ops.boxes import area, positive
from detection.ops.matching import labels, match
from tests.support.kernels import DEVICE, kernels

kernel = kernels("detection.fast.kernels.matching")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@settings(max_examples=6, deadline=None)
@given(
    batch=st.integers(1, 3),
    objects=st.integers(1, 6),
    number=st.sampled_from([1, 37, 512, 700]),
    shared=st.booleans(),
    keep_best=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_every_candidate_gets_the_same(batch, objects, number, shared, keep_best, seed):
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape):
        corners = (torch.rand(*shape, 2, 2, generator=generator) * 40).round()  # ties, and boxes without area
        return torch.cat([corners.amin(-2), corners.amax(-2)], dim=-1)

    truth, crowd = boxes(batch, objects), torch.rand(batch, objects, generator=generator) < 0.3
    truth[0, -1] = 0  # padding
    candidates = boxes(1 if shared else batch, number).expand(batch, -1, -1)
    index, label = match(truth, crowd, candidates, 0.3, 0.5, keep_best)
    there = truth.to(DEVICE), crowd.to(DEVICE), candidates.to(DEVICE)
    best, covered, found, claimed = kernel.compare(*there, positive(area(there[2])), keep_best)
    assert torch.equal(found.cpu(), index)
    assert torch.equal(labels(best, claimed, covered, 0.3, 0.5).cpu(), label)
