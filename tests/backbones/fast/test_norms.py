"""Convolutions with the norm after them, compared with separate steps."""

import pytest
import torch
from torch import nn

from backbones.fast.fused import _OWN_MAP, _scale_and_shift, batched_affine_maps, conv_norm
from backbones.norms import FrozenBatchNorm2d, make_norm
from tests.support.pretended_device import PretendedDevice


def filled(norm):
    torch.manual_seed(0)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.uniform_(tensor, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


@pytest.mark.parametrize("kind", ["frozen", "batch"])
def test_folding_changes_neither_result_nor_gradient(kind):
    norm = filled(make_norm(kind, 6)).eval()
    conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        folded = conv_norm(x, conv, norm)
    plain = norm(conv(x))
    assert folded.dtype == torch.bfloat16
    torch.testing.assert_close(folded.float(), plain, atol=0.05, rtol=0.02)  # bfloat16 has eight bits
    one = torch.autograd.grad(folded.float().sum(), conv.weight)[0]
    other = torch.autograd.grad(plain.sum(), conv.weight)[0]
    torch.testing.assert_close(one, other, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("carries", [False, True])
def test_in_float32_result_and_gradients_are_those_in_float64(carries):
    norm, conv = filled(FrozenBatchNorm2d(6)), nn.Conv2d(3, 6, 3, padding=1, bias=False)
    inputs = [torch.randn(2, 3, 9, 9), conv.weight, *([torch.randn(2, 6, 9, 9)] if carries else [])]
    results = []
    for dtype in (torch.float32, torch.float64):
        conv.to(dtype), norm.to(dtype)
        x, _, *residual = leaves = [given.to(dtype).requires_grad_() for given in inputs]
        leaves[1] = conv.weight
        if dtype == torch.float32:
            y = conv_norm(x, conv, norm, True, *residual)
        else:
            y = sum([norm(conv(x)), *residual]).relu()
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_folding_leaves_a_scale_that_learns_its_gradient(precision):
    """Batch norms in evaluation mode have fixed statistics; their scales learn all the same."""
    norm = filled(nn.BatchNorm2d(6)).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        conv_norm(torch.randn(2, 3, 9, 9), nn.Conv2d(3, 6, 1, bias=False), norm).square().sum().backward()
    assert norm.weight.grad.abs().min() > 0
    assert norm.bias.grad.abs().min() > 0


def test_folding_leaves_a_learning_norm_alone():
    norm = nn.BatchNorm2d(6).train()
    conv_norm(torch.randn(2, 3, 9, 9), nn.Conv2d(3, 6, 1, bias=False), norm)
    assert norm.num_batches_tracked == 1


def test_on_a_device_the_maps_of_all_norms_come_at_once_and_are_forgotten():
    norms = nn.Sequential(*(FrozenBatchNorm2d(channels) for channels in (3, 5, 4)))
    for norm in norms:
        for value in norm.buffers():
            nn.init.uniform_(value, 0.5, 2)
    expected = [_scale_and_shift(norm) for norm in norms]
    with PretendedDevice() as device:
        there = device.put(norms)
        device.launches.clear()
        with batched_affine_maps(there):
            found = [device.get(_scale_and_shift(norm)) for norm in there]
        assert len(device.launches) == 5
        with pytest.raises(KeyError), batched_affine_maps(there):
            raise KeyError
        assert all(_OWN_MAP not in vars(norm) for norm in there)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_cpu_computes_norm_by_norm():
    norm = nn.Sequential(FrozenBatchNorm2d(3))
    with batched_affine_maps(norm):
        assert norm[0].__dict__.get(_OWN_MAP) is None
