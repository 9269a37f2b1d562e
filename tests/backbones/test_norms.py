import pytest
import torch
import torchvision
from torch import nn

from backbones.norms import FrozenBatchNorm2d, make_norm


def filled(norm):
    torch.manual_seed(0)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.uniform_(tensor, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def test_the_frozen_norm_agrees_with_torchvisions():
    ours = filled(FrozenBatchNorm2d(6))
    theirs = torchvision.ops.FrozenBatchNorm2d(6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_batch_norms_state_fits_the_frozen_one():
    FrozenBatchNorm2d(6).load_state_dict(nn.BatchNorm2d(6).state_dict())


def test_the_frozen_norm_keeps_the_dtype():
    assert FrozenBatchNorm2d(6)(torch.randn(1, 6, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    # torchvision's does not, and pulls every layer after it into float32.
    assert torchvision.ops.FrozenBatchNorm2d(6)(torch.randn(1, 6, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_frozen_norm_has_nothing_to_learn():
    assert list(FrozenBatchNorm2d(6).parameters()) == []


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (256, 32), (16, 16), (80, 20), (7, 7)])
def test_groups_divide_the_channels(channels, groups):
    assert make_norm("group", channels).num_groups == groups


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (32, 16), (16, 8), (80, 20), (7, 1), (1, 1)])
def test_groups_can_have_two_channels_at_least(channels, groups):
    assert make_norm("group", channels, least=2).num_groups == groups


def test_an_unknown_norm_is_rejected():
    with pytest.raises(ValueError, match="use frozen, batch, sync, group or layer"):
        make_norm("instance", 8)


def test_a_layer_norm_normalises_the_channels_of_each_cell():
    torch.manual_seed(0)
    norm, x = make_norm("layer", 6), torch.randn(2, 6, 3, 4)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias)
    expected = torch.empty_like(x)
    for b, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
        cell = x[b, :, row, column]
        scaled = (cell - cell.mean()) / (cell.var(unbiased=False) + 1e-6).sqrt()
        expected[b, :, row, column] = scaled * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)
