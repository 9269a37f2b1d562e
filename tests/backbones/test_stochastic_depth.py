"""Stochastic depth: which blocks training skips, what they return, names of parameters, other networks, errors."""

import pytest
import torch

from backbones import classifier
from backbones.stochastic_depth import SkippedBasicBlock, SkippedBottleneck


@pytest.mark.parametrize(("name", "kind"), [("resnet18", SkippedBasicBlock), ("resnet50", SkippedBottleneck)])
def test_later_blocks_are_skipped_more_often(name, kind):
    network = classifier(name, 3, width=8, drop_path=0.3).network
    skips = [module.skip for module in network.modules() if isinstance(module, kind)]
    count = {"resnet18": 8, "resnet50": 16}[name]
    assert skips == pytest.approx([0.3 * place / (count - 1) for place in range(count)])


def test_evaluation_and_names_are_those_of_the_network_without():
    torch.manual_seed(0)
    plain, skipping = (classifier("resnet50", 3, width=8, drop_path=rate).eval() for rate in (None, 0.5))
    skipping.load_state_dict(plain.state_dict())
    images = torch.randint(0, 256, (2, 3, 64, 64))
    assert torch.equal(plain(images), skipping(images))


def test_a_block_returns_its_input_or_its_enlarged_output():
    torch.manual_seed(0)
    block = classifier("resnet18", 3, width=8, drop_path=0.4, norm="frozen").network.layer4[1].train()
    x = torch.rand(400, 64, 2, 2)
    with torch.no_grad():
        found = block(x)
        inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    kept = (x + inner / 0.6).relu()
    is_kept = torch.isclose(found, kept, atol=1e-5).flatten(1).all(dim=1)
    is_skipped = torch.isclose(found, x, atol=1e-5).flatten(1).all(dim=1)
    assert (is_kept ^ is_skipped).all()
    assert float(is_skipped.float().mean()) == pytest.approx(0.4, abs=0.08)


def test_networks_of_torchvision_have_their_own_stochastic_depth():
    from torchvision.ops import StochasticDepth

    network = classifier("efficientnet_b0", 3, drop_path=0.1).network
    assert max(m.p for m in network.modules() if isinstance(m, StochasticDepth)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("mobilenet_v2", 0.1, "drop_path: mobilenet_v2 has no stochastic depth"),
        ("plain18", 0.1, "a network without shortcuts cannot skip a block"),
        ("resnet18", 1.0, "drop_path is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_skipped_is_rejected(name, rate, message):
    with pytest.raises(ValueError, match=message):
        classifier(name, 3, drop_path=rate)
