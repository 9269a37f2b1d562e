"""The convolution with separate gradient code compared with the plain one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones import fast
from backbones.fast import conv as module
from backbones.fast.conv import Conv2d


@pytest.fixture(autouse=True, params=["AVX2", "AVX512"])
def detour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Taken for maps of any size, on either kind of CPU; the inputs for which it was."""
    monkeypatch.setattr(module, "_LARGE", 1)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    taken: list[Tensor] = []
    plain = module._Convolution.apply
    monkeypatch.setattr(module._Convolution, "apply", lambda x, *rest: taken.append(x) or plain(x, *rest))
    return taken


def both(**options) -> tuple[Conv2d, nn.Conv2d]:
    ours, theirs = Conv2d(4, 6, **options), nn.Conv2d(4, 6, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours.to(memory_format=torch.channels_last), theirs


def images(number: int = 2, height: int = 9, width: int = 8) -> Tensor:
    return torch.randn(number, 4, height, width).to(memory_format=torch.channels_last)


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
    bias=st.booleans(),
    number=st.integers(1, 3),
)
def test_result_and_gradients_are_those_of_the_plain_one(kernel, stride, padding, dilation, groups, bias, number):
    torch.manual_seed(0)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
    ours, theirs = both(kernel_size=kernel, **options)
    x = images(number, 12, 11)
    results = []
    for layer in (ours, theirs):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = layer(given)
        (y * torch.arange(float(y.numel())).view_as(y).sin()).sum().backward()
        results.append((y, given.grad, *(p.grad for p in layer.parameters())))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_the_detour_is_taken_and_the_gradient_lies_as_the_weight(detour):
    ours, _ = both(kernel_size=3)
    ours(images()).sum().backward()
    assert len(detour) == 1
    assert ours.weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_frozen_weights_and_inputs_without_gradient(detour):
    ours, _ = both(kernel_size=3)
    x = images()
    ours(x).sum().backward()  # the first layer
    ours.weight.requires_grad_(False)
    ours(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert len(detour) == 1


def test_under_autocast_only_the_maps_are_rounded(detour):
    """Gradients of the parameters add up in float32."""
    ours, theirs = both(kernel_size=3, padding=1)
    x = images()
    for layer in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
    assert [given.dtype for given in detour] == [torch.bfloat16]
    for mine, plain in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad, plain.grad, rtol=2e-2, atol=2e-2 * plain.grad.abs().max().item())


def test_what_is_not_large_goes_straight(detour, monkeypatch):
    ours, _ = both(kernel_size=3)
    with torch.no_grad():
        ours(images())
    ours(images().contiguous())
    both(kernel_size=3, padding="same")[0](images())
    both(kernel_size=3, padding=1, padding_mode="reflect")[0](images())
    monkeypatch.setattr(module, "_LARGE", 1000)
    ours(images())
    assert not detour


def test_results_may_be_changed_in_place_and_made_again(detour):
    ours, theirs = both(kernel_size=3)
    x = images()
    for layer in (ours, theirs):
        made = checkpoint(lambda x, layer=layer: layer(x).mul_(2).relu_(), x, use_reentrant=False)
        made.square().sum().backward()
    assert len(detour) == 2
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)


def test_plain_convolutions_made_elsewhere_go_the_same_ways(detour):
    class Special(nn.Conv2d):
        """Of its author's own ways, which stay."""

    network = nn.Sequential(nn.Conv2d(4, 6, 3), Special(6, 6, 1)).to(memory_format=torch.channels_last)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    x = images()
    expected = network(x)
    assert not detour
    assert [type(layer) for layer in fast.convert(network)] == [Conv2d, Special]
    torch.testing.assert_close(network(x), expected)
    assert len(detour) == 1
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
