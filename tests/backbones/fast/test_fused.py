"""Convolution, sum and ReLU in one pass, compared with separate steps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import fast
from backbones.fast import fused
from backbones.fast.fused import conv_add_relu, conv_relu
from tests.support.kernels import DEVICE, kernels

SHAPES = [(3, 8, 7, 2, 1, 1), (8, 8, 3, 1, 1, 1), (8, 6, 1, 1, 1, 1), (8, 8, 3, 2, 1, 2), (8, 8, 3, 1, 2, 4)]
"""Channels in and out, kernel, stride, dilation, groups."""


def plain(x, conv, weight, bias, scale, residual, relu):
    """One operation after the other, as autograd knows them."""
    kernel = weight if scale is None else weight * scale[:, None, None, None]
    y = F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    y = y if residual is None else y + residual
    return y.relu() if relu else y


@pytest.fixture(params=SHAPES, ids=str)
def layer(request):
    inputs, outputs, kernel, stride, dilation, groups = request.param
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups)
    return conv.to(memory_format=torch.channels_last)


def tensors(conv, dtype=torch.float32, seed=0, images=2):
    """Image, scale and sum of a layer."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, conv.in_channels, 14, 18, generator=generator).to(dtype, memory_format=torch.channels_last)
    scale = torch.rand(conv.out_channels, generator=generator) + 0.5
    residual = torch.randn(conv(x.float()).shape, generator=generator).to(dtype, memory_format=torch.channels_last)
    return x, scale, residual


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_result_and_gradients_are_those_of_the_steps(layer, relu, summed, scaled):
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert fused._is_fused(torch.ones(1, 1, 1, 1), layer), "oneDNN is part of PyTorch's own wheels"
    results = []
    for compute in (conv_add_relu, plain):
        x, scale, residual = tensors(layer)
        inputs = [x.requires_grad_(), layer.weight, layer.bias, *([residual.requires_grad_()] if summed else [])]
        rest = (scale if scaled else None, residual if summed else None, relu)
        y = compute(x, layer, layer.weight, layer.bias, *rest)
        results.append([y, *torch.autograd.grad((y * y.detach().cos()).sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert results[0][0].is_contiguous(memory_format=torch.channels_last)


def test_in_float32_not_a_bit_differs(layer):
    # PyTorch computes 1x1 convolutions of fewer images without oneDNN if it has a single thread.
    x, _, residual = tensors(layer, images=16)
    with torch.no_grad():
        assert torch.equal(conv_relu(x, layer), layer(x).relu())
        ours = conv_add_relu(x, layer, layer.weight, layer.bias, None, residual)
        assert torch.equal(ours, (layer(x) + residual).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [1, 3])
def test_maps_of_one_cell(kernel, dtype):
    # Their sum inside oneDNN is an error in PyTorch 2.11, the oldest that this toolkit takes.
    conv = nn.Conv2d(16, 16, kernel, 1, kernel // 2).to(memory_format=torch.channels_last)
    x, residual = (torch.randn(2, 16, 1, 1).to(dtype, memory_format=torch.channels_last) for _ in range(2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours = conv_add_relu(x, conv, conv.weight, conv.bias, None, residual)
        theirs = plain(x, conv, conv.weight, conv.bias, None, residual, True)
    tolerance = {"atol": 0.05, "rtol": 0.01} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("carries", [True, False])
def test_autocast_computes_in_bf16_and_gradients_stay_in_float32(layer, carries):
    x, scale, residual = tensors(layer)
    inputs = [x.requires_grad_(), layer.weight, layer.bias, residual.requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        ours = conv_add_relu(x, layer, layer.weight, layer.bias, scale, residual if carries else None)
        theirs = plain(x, layer, layer.weight, layer.bias, scale, residual if carries else None, True)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs.float(), atol=0.05, rtol=0.01)
    wanted = inputs if carries else inputs[:3]
    one, other = (torch.autograd.grad((y.float() * y.detach().float()).sum(), wanted) for y in (ours, theirs))
    for mine, steps in zip(one, other, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - steps).norm() < 0.02 * steps.norm()


def test_a_frozen_weight_gets_no_gradient_and_what_lies_before_it_does(layer):
    x, scale, residual = tensors(layer)
    layer.requires_grad_(False)
    y = conv_add_relu(x.requires_grad_(), layer, layer.weight, layer.bias, scale, residual)
    y.sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize(
    "why", ["no rows", "another padding", "no oneDNN", "no operator", "float64", "imitated bf16", "compiled"]
)
def test_where_onednn_does_not_fuse_it_is_computed_step_by_step(why, monkeypatch):
    conv = nn.Conv2d(4, 4, 3, padding="same" if why == "another padding" else 1)
    x = torch.randn(0 if why == "no rows" else 2, 4, 6, 6)
    if why == "no operator":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    if why == "float64":
        conv, x = conv.double(), x.double()
    if why == "imitated bf16":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        conv, x = conv.bfloat16(), x.bfloat16()
    if why == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(fused._Fused, "apply", None)
    with torch.backends.mkldnn.flags(enabled=why != "no oneDNN"):
        y = conv_relu(x, conv)
        assert torch.equal(y, conv(x).relu())
        if len(x):
            y.float().sum().backward()
            assert conv.weight.grad is not None


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_with_a_gpus_kernels_result_and_gradients_are_those_of_the_steps(layer, monkeypatch, relu, summed, scaled):
    kernels("backbones.fast.kernels.epilogue")
    monkeypatch.setattr(fused, "_is_fused", lambda *_: False)
    layer.to(DEVICE)
    results = []
    for compute, used in ((conv_add_relu, True), (plain, False)):
        monkeypatch.setattr("backbones.fast.kernels.usable", lambda x, used=used: used)
        x, scale, residual = (value.to(DEVICE) for value in tensors(layer.cpu()))
        layer.to(DEVICE)
        inputs = [x.requires_grad_(), layer.weight, layer.bias, *([residual.requires_grad_()] if summed else [])]
        rest = (scale if scaled else None, residual if summed else None, relu)
        y = compute(x, layer, layer.weight, layer.bias, *rest)
        results.append([y, *torch.autograd.grad((y * y.detach().cos()).sum(), inputs)])
        with torch.inference_mode():
            torch.testing.assert_close(compute(x, layer, layer.weight, layer.bias, *rest), y, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_with_a_gpus_kernels_a_layer_adds_its_bias_in_one_pass(layer, monkeypatch, own):
    epilogue, passes = kernels("backbones.fast.kernels.epilogue"), []
    finish = epilogue.finish
    monkeypatch.setattr(epilogue, "finish", lambda *a: passes.append(1) or finish(*a))
    monkeypatch.setattr("backbones.fast.kernels.usable", lambda x: True)
    x = tensors(layer)[0].to(DEVICE)
    layer.to(DEVICE)
    expected = layer(x)
    module = fast.convert(nn.Sequential(layer))[0] if own else layer
    found = module(x)
    assert len(passes) == own
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    slope = expected.detach().cos()
    gradients = (torch.autograd.grad(y, list(layer.parameters()), slope) for y in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
