"""Replacements of convolutions and products compute the same in float32, and only while they are active."""

import torch
import torch.nn.functional as F

from backbones.fast.fused import conv_add_relu
from tools.benchmark.rest import Replaced


def test_stand_ins_compute_the_same_and_go_again():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 8).contiguous(memory_format=torch.channels_last)
    kernel, bias, up = torch.randn(5, 4, 3, 3), torch.randn(5), torch.randn(4, 3, 2, 2)
    conv, residual = torch.nn.Conv2d(4, 5, 3, padding=1), torch.randn(2, 5, 6, 8)
    expected = [
        conv(x).relu(),
        (conv(x) + residual).relu(),
        F.conv2d(x, kernel, bias, stride=2, padding=1),
        F.conv_transpose2d(x, up, torch.ones(3), stride=2),
        F.linear(x.flatten(1), torch.ones(7, 192), torch.ones(7)),
    ]
    with Replaced() as replaced, torch.autocast("cpu", torch.bfloat16):
        weight = kernel.clone().requires_grad_()
        found = [
            conv_add_relu(x, conv, conv.weight, conv.bias),
            conv_add_relu(x, conv, conv.weight, conv.bias, residual=residual),
            F.conv2d(x, weight, bias, stride=2, padding=1),
            F.conv_transpose2d(x, up, torch.ones(3), stride=2),
            F.linear(x.flatten(1), torch.ones(7, 192), torch.ones(7)),
        ]
        found[2].sum().backward()
        product = torch.empty(2, 7)
        torch.mm(torch.ones(2, 3), torch.ones(3, 7), out=product)
    assert (product == 3).all()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.2)
    assert weight.grad.shape == weight.shape
    counted = replaced.seconds
    assert counted > 0
    F.conv2d(x, kernel, bias)
    assert replaced.seconds == counted
