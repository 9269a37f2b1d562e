"""The mask head's backward pass by the GPU kernel compared with single steps; interpreted without a GPU."""

import pytest
import torch

from detection.fast.mask_head import _ReLUOwnChannel
from tests.support.kernels import DEVICE, kernels

own_channel = kernels("detection.fast.kernels.own_channel")


@pytest.mark.parametrize(("rois", "channels", "side"), [(3, 5, 2), (1, 8, 3), (0, 4, 2)])
def test_gradient_is_that_of_the_steps(rois, channels, side):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rois, 4 * channels, side, side, generator=generator).to(memory_format=torch.channels_last)
    weight, slope = (
        torch.randn(rois, channels, generator=generator),
        torch.randn(rois, 2 * side, 2 * side, generator=generator),
    )
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    expected = torch.autograd.grad(_ReLUOwnChannel.apply(leaf * 1.0, weight)[0], leaf, slope)[0]
    left = x.relu().to(DEVICE)
    found = own_channel.gradient(left, weight.to(DEVICE), slope.to(DEVICE))
    assert found is left
    assert torch.equal(found.cpu(), expected)
