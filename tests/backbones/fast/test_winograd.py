"""Winograd convolutions compared with plain ones in float64."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from backbones import BackboneConfig, build
from backbones.fast import convert, cpu, switch, winograd
from backbones.fast.conv import Conv2d, options_of
from backbones.fast.fused import conv_add_relu, conv_relu
from backbones.fast.winograd import native, products, tiles

NATIVE = pytest.param("native", marks=pytest.mark.skipif(not native.usable(), reason="there is no C compiler"))


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    """Whatever is faster on the machine that tests this."""
    monkeypatch.setattr(switch, "words", lambda: frozenset({"winograd"}))


@pytest.fixture(params=[NATIVE, "products"], autouse=True)
def way(request, monkeypatch) -> str:
    if request.param == "products":
        monkeypatch.setattr(native, "_library", lambda: None)
    return request.param


def layer(inputs: int = 128, outputs: int = 128, **options) -> Conv2d:
    torch.manual_seed(0)
    return Conv2d(inputs, outputs, 3, **{"padding": 1} | options).to(memory_format=torch.channels_last)


def images(channels: int = 128, batch: int = 3, height: int = 16, width: int = 15) -> Tensor:
    x = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=torch.channels_last)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What was computed this way, in order."""
    made: list[str] = []
    for name in ("convolution", "input_gradient", "weight_gradient"):
        plain = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *a, name=name, plain=plain: made.append(name) or plain(*a))
    return made


def error(mine: Tensor, exact: Tensor) -> float:
    """The largest, of the standard deviation."""
    return ((mine - exact).abs().max() / exact.abs().square().mean().sqrt()).item()


SIZES = st.one_of(st.tuples(st.integers(1, 23), st.integers(1, 23)), st.sampled_from([(7, 7), (14, 14), (7, 14)]))
PIECES = st.sampled_from([36, 300, 3000, 1_000_000])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 4),
    size=SIZES,
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    rest=st.sampled_from([0, 0, 5, 16]),
    piece=PIECES,
    weights=st.sampled_from([36, 300, 1_000_000]),
    biased=st.booleans(),
    relu=st.booleans(),
    format=st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_of_any_size_and_in_any_pieces(way, batch, size, inputs, outputs, rest, piece, weights, biased, relu, format):
    height, width = size
    more = 32 if way == "native" else 1  # channels, of which all are multiples there
    inputs, outputs, piece, weights = more * inputs, more * outputs, more * piece, min(more**2 * weights, 10**7)
    outputs += rest  # in C, a plain convolution computes these
    assert winograd._way(inputs, outputs - rest) is {"native": native, "products": products}[way]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "PIECE", piece)
        patch.setattr(tiles, "WEIGHT", weights)
        generator = torch.Generator().manual_seed(height * 23 + width)
        x, weight, bias, grad = (
            torch.randn(shape, generator=generator)
            for shape in (
                (batch, inputs, height, width),
                (outputs, inputs, 3, 3),
                (outputs,),
                (batch, outputs, height, width),
            )
        )
        x, weight, grad = (tensor.to(memory_format=format) for tensor in (x, weight / more**0.5, grad))
        y = winograd.convolution(x, weight, bias if biased else None, relu)
        assert y.is_contiguous(memory_format=torch.channels_last)
        leaves = [x.double().requires_grad_(), weight.double().requires_grad_()]
        exact = F.conv2d(*leaves, bias.double() if biased else None, padding=1)
        gradients = torch.autograd.grad(exact, leaves, grad.double())
        off = 1e-4 * (20 if {height, width} <= {7, 14} else 1)  # 3e-4 and 2e-5 of the largest standard deviation
        torch.testing.assert_close(y.double(), exact.relu() if relu else exact, rtol=0, atol=off)
        torch.testing.assert_close(winograd.input_gradient(grad, weight).double(), gradients[0], rtol=0, atol=off)
        scale = gradients[1].abs().max().item() + 1
        found = winograd.weight_gradient(grad, x)
        torch.testing.assert_close(found.double(), gradients[1], rtol=0, atol=0.1 * off * scale)


@pytest.mark.parametrize(("shape", "most"), [((2, 40, 36), 3e-5), ((15, 14, 14), 3e-4)])
def test_errors_are_hardly_larger_than_those_of_the_plain_sum(shape, most):
    """A GPU's own convolutions in float32 (TF32) are off by 1e-3."""
    conv, x, grad = layer(256, 256), images(256, *shape), images(256, *shape).flip(0)
    leaves = [x.double().requires_grad_(), conv.weight.detach().double().requires_grad_()]
    exact = F.conv2d(*leaves, padding=1)
    to_x, to_weight = torch.autograd.grad(exact, leaves, grad.double())
    weight = conv.weight.detach()
    assert error(F.conv2d(x, weight, padding=1), exact) > 2e-7  # both are float32
    assert error(winograd.convolution(x, weight), exact) < most
    assert error(winograd.input_gradient(grad, weight), to_x) < most
    assert error(winograd.weight_gradient(grad, x), to_weight) < most


@pytest.mark.parametrize("way", [NATIVE, pytest.param("products", marks=pytest.mark.slow)], indirect=True)
def test_a_deep_network_is_as_exact_with_it(monkeypatch, calls, way):
    torch.manual_seed(0)
    network = convert(build(BackboneConfig("resnet50", norm="group")).eval().to(memory_format=torch.channels_last))
    x = torch.rand(2, 3, 160, 192).to(memory_format=torch.channels_last)
    with torch.no_grad():
        fast = network(x)
        assert len(calls) == 3  # at stride 8
        monkeypatch.setattr(switch, "words", lambda: frozenset({"no-winograd"}))
        plain = network(x)
        exact = network.double()(x.double())
    for mine, other, reference in zip(fast, plain, exact, strict=True):
        assert (mine - reference).norm() < 1.5 * (other - reference).norm() + 2e-6 * reference.norm()


WAYS = {
    "a layer": (lambda conv, x: conv(x), lambda y, x: y),
    "with a ReLU": (lambda conv, x: conv_relu(x, conv), lambda y, x: y.relu()),
    "with a sum": (
        lambda conv, x: conv_add_relu(x, conv, conv.weight, conv.bias, residual=x.sin()),
        lambda y, x: (y + x.sin()).relu(),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_learn_and_infer_this_way(way, calls):
    ours, plainly = WAYS[way]
    conv, x = layer(), images().requires_grad_()
    y = ours(conv, x)
    found = torch.autograd.grad((y * y.detach().cos()).sum(), [x, *conv.parameters()])
    assert set(calls) == {"convolution", "input_gradient", "weight_gradient"}
    with torch.inference_mode():
        assert torch.equal(ours(conv, x.detach()), y)
    assert calls[-1] == "convolution"
    leaves = [tensor.detach().double().requires_grad_() for tensor in (x, conv.weight, conv.bias)]
    exact = plainly(F.conv2d(*leaves, padding=1), leaves[0])
    expected = torch.autograd.grad((exact * exact.detach().cos()).sum(), leaves)
    for mine, reference in zip([y, *found], [exact, *expected], strict=True):
        assert error(mine.detach(), reference.detach()) < 1e-4


def test_results_may_be_overwritten(calls):
    conv, x = layer(), images()
    conv(x).mul_(2).add_(1).sum().backward()
    assert sorted(calls) == ["convolution", "weight_gradient"]


def test_a_frozen_layer_before_what_learns(calls):
    conv = layer().requires_grad_(False)
    conv(images())
    assert calls == ["convolution"]
    x = images().requires_grad_()
    conv(x).sum().backward()  # PyTorch keeps less of it
    assert calls == ["convolution"]
    assert x.grad is not None


OTHERS = ["strided", "dilated", "grouped", "5x5", "unpadded", "narrow", "small", "bf16", "float64", "off", "compiled"]


@pytest.mark.parametrize("why", OTHERS)
def test_other_convolutions_are_left_to_pytorch(why, calls, monkeypatch):
    options = {"strided": {"stride": 2}, "dilated": {"dilation": 2, "padding": 2}, "grouped": {"groups": 2}}
    conv = layer(64, 64) if why == "narrow" else layer(**options.get(why, {}))
    if why == "5x5":
        conv = Conv2d(128, 128, 5, padding=2)
    if why == "unpadded":
        conv = Conv2d(128, 128, 3)
    x = images(conv.in_channels, 1 if why == "small" else 3)
    dtype = {"bf16": torch.bfloat16, "float64": torch.float64}.get(why, torch.float32)
    conv, x = conv.to(dtype), x.to(dtype)
    if why == "off":
        monkeypatch.setattr(switch, "words", lambda: frozenset({"no-winograd"}))
    if why == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    conv(x).sum().backward()
    conv_relu(x, conv).sum().backward()
    with torch.inference_mode():
        conv(x)
    assert not winograd.should_use(x, conv.weight, options_of(conv))
    assert calls == []


def test_under_autocast_the_network_is_in_bf16(calls):
    with torch.autocast("cpu", torch.bfloat16):
        assert layer()(images()).dtype == torch.bfloat16
    assert calls == []


@pytest.mark.parametrize(
    ("vendor", "family", "capability", "measured", "deterministic", "taken"),
    [
        ("GenuineIntel", 6, "AVX2", None, True, True),  # known, so that no clock has a say
        ("AuthenticAMD", 25, "AVX512", None, True, True),  # Zen 4, known as well
        ("AuthenticAMD", 25, "AVX2", None, True, True),  # Zen 3
        ("AuthenticAMD", 23, "AVX2", 1.0, False, False),
        ("AuthenticAMD", 23, "AVX2", 1.9, True, False),
        ("AuthenticAMD", 26, "AVX512", 1.0, False, False),  # Zen 5
    ],
)
def test_else_an_unknown_cpu_is_measured_unless_runs_are_deterministic(
    vendor, family, capability, measured, deterministic, taken, calls, monkeypatch, tmp_path
):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(winograd, "_is_known", winograd._is_known.__wrapped__)
    monkeypatch.setattr(switch, "words", frozenset)
    monkeypatch.setattr(winograd, "gain", lambda: measured)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with torch.inference_mode():
        layer()(images())
    assert calls == (["convolution"] if taken else [])


def test_asking_takes_a_moment_and_answers_within_reason():
    start = time.perf_counter()
    assert 0.1 < winograd.gain.__wrapped__() < 10
    assert time.perf_counter() - start < 20


def test_training_follows_inference_and_threads_do_not_meet():
    """All use memory of their thread again and again."""
    tiles.scratch.memory = torch.empty(0)
    conv, x = layer(), images()
    with torch.inference_mode():
        expected = conv(x)
    conv(x).sum().backward()
    inputs = [x * (i + 1) for i in range(8)]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        plain = conv.bias[:, None, None]
        for i, y in enumerate(pool.map(torch.inference_mode()(conv), inputs)):
            torch.testing.assert_close(y - plain, (expected - plain) * (i + 1), rtol=1e-4, atol=1e-4)


def test_other_defaults_change_nothing():
    conv, x = layer(), images()
    with torch.inference_mode():
        expected = conv(x)
        tiles.scratch.memory = tiles.scratch.memory[:0]
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                assert torch.equal(conv(x), expected)
                assert tiles.Filter(4).from_input.dtype == torch.float32
        finally:
            torch.set_default_dtype(torch.float32)


def test_one_thread_or_many_give_the_same():
    """Pieces are as large as the threads are many."""
    conv, x = layer(), images(batch=20)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            results.append(conv(x).detach())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)


def test_a_huge_row_of_tiles_is_one_piece():
    x, weight = torch.randn(1, 2, 3, 200_000), torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(winograd.convolution(x, weight), F.conv2d(x, weight, padding=1), rtol=0, atol=1e-4)
    assert len(list(tiles.pieces(x, tiles.filter_of(x, 3), 256, tiles.PIECE))) == 1


@pytest.mark.parametrize(
    ("shape", "out", "dtype", "learns", "edge"),
    [
        ((2, 256, 88, 128), 256, torch.float32, False, 4),
        ((2, 256, 88, 128), 256, torch.bfloat16, False, 7),
        ((2, 256, 88, 128), 256, torch.bfloat16, True, 4),
        ((2, 256, 88, 128), 512, torch.bfloat16, False, 4),  # a weight in two parts, for each of which x is mapped
        ((9, 256, 44, 64), 256, torch.bfloat16, False, 4),  # the weight's numbers are more than there are fewer of x
        ((2, 256, 80, 64), 256, torch.bfloat16, False, 4),
        ((1, 256, 14, 14), 256, torch.float32, True, 7),
    ],
)
def test_large_tiles_where_they_take_less_time_and_lose_nothing(shape, out, dtype, learns, edge):
    assert tiles.filter_of(torch.empty(shape, dtype=dtype), out, learns).edge == edge


def in_bf16(conv: Conv2d, *maps: Tensor) -> tuple[Tensor, ...]:
    """The weight and maps, rounded."""
    return tuple(tensor.detach().bfloat16() for tensor in (conv.weight, *maps))


@pytest.mark.slow  # convolutions in bf16 take seconds on a CPU without such instructions
@pytest.mark.parametrize("shape", [(41, 14, 14), (2, 72, 76), (1, 90, 96)])
def test_in_bf16_wide_maps_lose_less_than_in_the_plain_sum(shape, way, calls, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    conv, plain = layer(256, 256), torch.nn.Conv2d(256, 256, 3, padding=1)
    plain.load_state_dict(conv.state_dict())
    x = images(256, *shape).requires_grad_()
    grad = images(256, *shape).flip(0)
    results = []
    for module in (conv, plain):
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        results.append([y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], grad.bfloat16())])
    assert calls == (["convolution", "weight_gradient", "input_gradient"] if way == "native" else [])
    weight, rounded, told = in_bf16(conv, x, grad)
    leaves = [tensor.double().requires_grad_() for tensor in (rounded, weight, conv.bias.detach().bfloat16())]
    exact = F.conv2d(*leaves, padding=1)
    expected = [exact.detach(), *torch.autograd.grad(exact, leaves, told.double())]
    for mine, other, reference in zip(*results, expected, strict=True):
        assert mine.dtype == other.dtype
        assert (mine - reference).norm() <= 1.05 * (other - reference).norm()


@pytest.mark.parametrize("why", ["AMX", "narrow", "small"])
def test_other_convolutions_in_bf16_are_left_to_pytorch(why, calls, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": why == "AMX"})
    channels = 128 if why == "narrow" else 256
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        layer(channels, channels)(images(channels, 10 if why == "small" else 41, 14, 14).bfloat16())
    assert calls == []


@pytest.mark.skipif(not native.usable(), reason="there is no C compiler")
class TestNative:
    """What the products do not promise."""

    @pytest.fixture(params=["native"], autouse=True)
    def way(self, request) -> str:
        return request.param

    def test_no_bit_depends_on_pieces_threads_or_other_images(self, monkeypatch):
        weight, x, grad = layer(64, 96).weight.detach(), images(64, 5, 21, 30), images(96, 5, 21, 30)
        expected, threads = winograd.convolution(x, weight), torch.get_num_threads()
        for i, image in enumerate(x.split(1)):
            assert torch.equal(winograd.convolution(image, weight), expected[i : i + 1])
        to_weight = winograd.weight_gradient(grad, x)
        try:
            torch.set_num_threads(3)
            assert torch.equal(winograd.convolution(x, weight), expected)
            torch.set_num_threads(1)
            monkeypatch.setattr(tiles, "PIECE", 36 * 96 * 16)
            assert torch.equal(winograd.convolution(x, weight), expected)
        finally:
            torch.set_num_threads(threads)
        torch.testing.assert_close(winograd.weight_gradient(grad, x), to_weight, rtol=1e-4, atol=1e-3)

    def test_it_rounds_as_pytorch_does(self):
        """To the nearest, to even numbers between two; a NaN stays NaN, also after a ReLU."""
        weight = torch.zeros(32, 32, 3, 3).to(memory_format=torch.channels_last)
        bias = torch.cat([1 + torch.arange(30) / 256, torch.tensor([math.nan, -math.inf])])
        x = torch.zeros(1, 32, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        for relu in (False, True):
            expected = bias.relu() if relu else bias
            found = winograd.convolution(x, weight, bias, relu)
            assert torch.equal(found[0, :, 1, 1].float().nan_to_num(7), expected.bfloat16().float().nan_to_num(7))

    def test_gradients_of_expanded_and_strided_maps(self):
        x, weight = images(32, 2, 9, 9), layer(32, 32).weight.detach()
        expanded = torch.ones(1, 1, 1, 1).expand(2, 32, 9, 9)
        exact = torch.nn.grad.conv2d_weight(x.double(), weight.shape, expanded.double(), padding=1)
        assert error(winograd.weight_gradient(expanded, x), exact) < 1e-4
        wide = images(64, 2, 9, 18)[:, ::2, :, ::2]
        exact = F.conv2d(wide.double(), weight.double(), padding=1)
        assert error(winograd.convolution(wide, weight), exact) < 1e-4
