"""The layer whose gradient overwrites its input, against ``nn.Linear`` on flattened RoIs."""

import pytest
import torch
from torch import nn

from detection import fast
from detection.models.box_head import RoILinear


@pytest.fixture
def two():
    """The layer and PyTorch's, of the same weights."""
    ours, theirs = RoILinear(6, 3, 5), nn.Linear(6 * 9, 5)
    nn.init.normal_(theirs.bias)
    fast.convert(ours)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_is_the_linear_layer(two, layout, overwrite):
    ours, theirs = two
    x = torch.randn(4, 6, 3, 3).contiguous(memory_format=layout)
    inputs = [x.clone(memory_format=layout).requires_grad_() for _ in two]
    y = ours(inputs[0] * 1, overwrite), theirs(inputs[1].flatten(1))
    torch.testing.assert_close(*y)
    for one in y:
        one.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    assert inputs[0].grad.is_contiguous(memory_format=layout)
    gradient = ours.weight.grad.transpose(1, 2).flatten(1)  # (5, 9, 6) as (5, 6 * 9)
    torch.testing.assert_close(gradient, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_the_gradient_overwrites_the_rois_and_nobody_reads_them_unwarned(two):
    ours, _ = two
    leaf = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    x = leaf * 1
    x.retain_grad()
    y = ours(x, overwrite=True).square().sum()
    y.backward(retain_graph=True)
    assert torch.equal(x, x.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("overwrite", [False, True])
def test_autocast_takes_its_precision_and_gradients_stay_in_float32(two, overwrite):
    ours, theirs = two
    x = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x.requires_grad_() * 1, overwrite), theirs(x.flatten(1))
    assert y[0].dtype == torch.bfloat16
    torch.testing.assert_close(*y)
    y[0].float().sum().backward()
    assert x.grad.dtype == ours.weight.grad.dtype == ours.bias.grad.dtype == torch.float32
