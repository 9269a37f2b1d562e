"""ResNets of torchvision, timm and this toolkit: the same names, in both directions."""

import pytest
import torch
import torchvision

from backbones import BackboneConfig, build


def theirs(origin: str, name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if origin == "timm":
        return pytest.importorskip("timm").create_model(name, pretrained=False)
    return getattr(torchvision.models, name)(weights=None)


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet50", "resnext50_32x4d"))]
)
@pytest.mark.parametrize("origin", ["torchvision", "timm"])
def test_state_dicts_fit_both_ways(tmp_path, origin, name):
    network = theirs(origin, name)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    ours = build(BackboneConfig(name, weights=str(tmp_path / "theirs.pth")))
    assert all(torch.equal(ours.state_dict()[key], network.state_dict()[key]) for key in ours.state_dict())
    left = theirs(origin, name).load_state_dict(ours.state_dict(), strict=False)
    assert left.unexpected_keys == []
    assert left.missing_keys == ["fc.weight", "fc.bias"]
