"""The layer against ``nn.Linear`` on flattened RoIs."""

import pytest
import torch
from torch import nn

from detection.models.box_head import RoILinear
from detection.models.roi_linear import ENTRY, as_linear, as_roi_linear


@pytest.fixture
def two():
    """The layer and PyTorch's, of the same weights."""
    ours, theirs = RoILinear(6, 3, 5), nn.Linear(6 * 9, 5)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_is_the_linear_layer(two, layout):
    ours, theirs = two
    x = torch.randn(4, 6, 3, 3).contiguous(memory_format=layout)
    inputs = [x.clone(memory_format=layout).requires_grad_() for _ in two]
    y = ours(inputs[0] * 1), theirs(inputs[1].flatten(1))
    torch.testing.assert_close(*y)
    for one in y:
        one.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    assert inputs[0].grad.is_contiguous(memory_format=layout)
    gradient = ours.weight.grad.transpose(1, 2).flatten(1)  # (5, 9, 6) as (5, 6 * 9)
    torch.testing.assert_close(gradient, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_autocast_takes_its_precision_and_gradients_stay_in_float32(two):
    ours, theirs = two
    x = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x.requires_grad_() * 1), theirs(x.flatten(1))
    assert y[0].dtype == torch.bfloat16
    torch.testing.assert_close(*y)
    y[0].float().sum().backward()
    assert x.grad.dtype == ours.weight.grad.dtype == ours.bias.grad.dtype == torch.float32


def test_it_loads_its_own_weights_and_those_of_the_linear_layer(two):
    ours, theirs = two
    again = RoILinear(6, 3, 5)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.weight, ours.weight)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        ours.load_state_dict(nn.Linear(6 * 4, 5).state_dict())
    state = {ENTRY: ours.weight, "box_head.fcs.1.weight": theirs.weight}
    assert torch.equal(as_linear(state)[ENTRY], theirs.weight)
    assert torch.equal(as_linear(as_linear(state))[ENTRY], theirs.weight)
    assert torch.equal(as_roi_linear(theirs.weight, ours.weight), ours.weight)


def test_averages_of_state_dicts_reach_all_weights(tiny):
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    for value in tiny.state_dict().values():
        value.mul_(0.5)
    for name, value in tiny.state_dict().items():
        assert torch.equal(value, before[name] * 0.5), name


def test_it_begins_as_the_linear_layer_would():
    torch.manual_seed(0)
    ours = RoILinear(6, 3, 5)
    torch.manual_seed(0)
    weight = torch.empty(5, 6 * 9)
    nn.init.kaiming_uniform_(weight, a=1)
    assert torch.equal(ours.weight.transpose(1, 2).flatten(1), weight)
