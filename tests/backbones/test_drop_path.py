"""Stochastic depth, where a network has it."""

import pytest
import torch
from torchvision.ops import StochasticDepth

from backbones import BackboneConfig, build


def rates(network):
    found = [layer.p for layer in network.modules() if isinstance(layer, StochasticDepth)]
    return found + [m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"]


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "swin_t", "efficientnet_b0", pytest.param("maxvit_t", marks=pytest.mark.slow)]
)
def test_it_rises_to_the_rate_of_the_last_block(name):
    with torch.device("meta"):
        default, mine = rates(build(BackboneConfig(name))), rates(build(BackboneConfig(name, drop_path=0.4)))
    assert max(mine) == pytest.approx(0.4)
    assert mine == pytest.approx([rate * 0.4 / max(default) for rate in default])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_that_of_timm(name):
    pytest.importorskip("timm")
    assert rates(build(BackboneConfig(f"timm/{name}"))) == []
    found = rates(build(BackboneConfig(f"timm/{name}", drop_path=0.3)))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.3)


def test_zero_switches_it_off():
    with torch.device("meta"):
        assert set(rates(build(BackboneConfig("convnext_tiny", drop_path=0.0)))) == {0.0}


def test_a_frozen_stage_skips_nothing():
    network = build(BackboneConfig("convnext_tiny", drop_path=0.5, freeze=5)).train()
    assert not any(layer.training for layer in network.modules() if isinstance(layer, StochasticDepth))


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("resnet18", 0.1, "resnet18 has no stochastic depth"),
        ("vit_b_16", 0.1, "vit_b_16 has no stochastic depth"),
        ("vgg11", 0.1, "vgg11 has no stochastic depth"),
        ("timm/vgg11", 0.1, "timm/vgg11 has no stochastic depth"),
        ("convnext_tiny", 1.0, "drop_path is 1.0; it must be at least 0 and below 1"),
        ("convnext_tiny", -0.1, "must be at least 0"),
    ],
)
def test_others_are_rejected(name, rate, message):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(BackboneConfig(name, drop_path=rate))
