"""The only entry point, :func:`backbones.fast.convert`: its changes, and modules that it does not change."""

import copy

import pytest
import torch
from torch import nn

from backbones import BackboneConfig, build, fast
from backbones.fast import switch
from backbones.resnet import Bottleneck


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build(BackboneConfig("resnet50", norm="frozen", width=16))


def classes(network: nn.Module) -> list[type]:
    return [type(module) for module in network.modules()]


def test_converting_keeps_parameters_names_hooks_and_copies(network):
    before, seen = {**network.state_dict()}, []
    network.layer1[0].register_forward_hook(lambda *_: seen.append(1))
    assert fast.convert(network) is network
    assert set(classes(network)) & set(fast.FASTER) == set()
    assert all(network.state_dict()[name].data_ptr() == value.data_ptr() for name, value in before.items())
    assert classes(copy.deepcopy(network)) == classes(network)
    network(torch.zeros(1, 3, 64, 64))
    assert seen == [1]


def test_reverting_gives_the_plain_classes_back(network):
    before = classes(network)
    assert classes(fast.revert(fast.convert(fast.convert(network)))) == before


def test_the_two_forms_agree(network):
    x = torch.randn(2, 3, 64, 96)
    results = []
    for form in (fast.revert, fast.convert):
        stages = form(network.double())(x.double())
        weights = [p for p in network.parameters() if p.requires_grad]
        results.append([*stages, *torch.autograd.grad(sum(stage.sin().sum() for stage in stages), weights)])
    for plain, faster in zip(*results, strict=True):
        torch.testing.assert_close(plain, faster)


def test_classes_that_nobody_knows_stay(network):
    class Mine(Bottleneck):
        """A block that its author changed."""

    network.layer2[0].__class__ = Mine
    assert type(fast.convert(network).layer2[0]) is Mine


def test_one_word_in_the_environment_switches_everything_off(network, monkeypatch):
    monkeypatch.setenv("RCNN_FAST", "0")
    monkeypatch.setattr(switch, "words", switch.words.__wrapped__)
    before = classes(network)
    assert classes(fast.convert(network)) == before


@pytest.mark.parametrize(
    ("given", "off"), [("", ""), ("0", "c triton winograd"), ("no-c,no-triton", "c triton"), ("winograd", "")]
)
def test_words_of_the_environment(given, off, monkeypatch):
    monkeypatch.setenv("RCNN_FAST", given)
    monkeypatch.setattr(switch, "words", switch.words.__wrapped__)
    assert [way for way in ("c", "triton", "winograd") if switch.is_off(way)] == off.split()
    assert switch.is_forced("winograd") == (given == "winograd")


def test_an_unknown_word_is_rejected(monkeypatch):
    monkeypatch.setenv("RCNN_FAST", "no-gpu")
    with pytest.raises(ValueError, match="RCNN_FAST: unknown word 'no-gpu'; use 0, or a list of no-c"):
        switch.words.__wrapped__()
