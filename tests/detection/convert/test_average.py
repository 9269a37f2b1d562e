"""The mean of several detectors."""

from dataclasses import replace

import pytest
import torch

from backbones import BackboneConfig
from detection.categories import Categories
from detection.checkpoint import save_model
from detection.convert.average import average
from detection.convert.pretrained import load_pretrained
from detection.inference import load_model
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from tests.support.commands import export as main

CONFIGS = {
    "backbone": BackboneConfig("resnet10", norm="batch", width=8),
    "fpn": FPNConfig(channels=16),
    "box_head": BoxHeadConfig(hidden=16),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Three detectors whose norms have met 1, 2 and 3 batches."""
    folder = tmp_path_factory.mktemp("average")
    paths = []
    for number in (1, 2, 3):
        torch.manual_seed(number)
        model = build_detector(2, **CONFIGS)
        model.categories = Categories(("cat", "dog"), (1, 2))
        model.state_dict()["backbone.bn1.num_batches_tracked"].fill_(number)
        model.state_dict()["backbone.bn1.running_mean"].uniform_()
        paths.append(folder / f"{number}.ckpt")
        save_model(model, paths[-1])
    return [str(path) for path in paths]


@pytest.mark.slow
def test_weights_and_norms_are_means_and_counters_are_the_last(checkpoints, tmp_path):
    main([*checkpoints, str(tmp_path / "mean.safetensors")])
    mean = load_model(str(tmp_path / "mean.safetensors"))
    states = [load_model(path).state_dict() for path in checkpoints]
    for key, value in mean.state_dict().items():
        parts = [state[key] for state in states]
        if value.is_floating_point():
            torch.testing.assert_close(value, sum(parts) / 3, rtol=1e-5, atol=1e-6)
        else:
            assert value == parts[-1]
    assert not torch.equal(mean.backbone.conv1.weight, load_model(checkpoints[0]).backbone.conv1.weight)
    assert mean.categories.names == ("cat", "dog")


def test_the_mean_of_one_is_that_one(checkpoints):
    found = load_pretrained(checkpoints[0])
    same = average([found])
    assert all(torch.equal(same.state[key], value) for key, value in found.state.items())


def test_detectors_that_do_not_go_together(checkpoints):
    found = load_pretrained(checkpoints[0])
    other = replace(found, source="other.ckpt", categories=Categories(("cat", "cow"), (1, 2)))
    with pytest.raises(ValueError, match=r"1\.ckpt has other classes or settings than other\.ckpt"):
        average([found, other])
    short = replace(found, source="short.ckpt", state={k: v for k, v in found.state.items() if "mean" not in k})
    with pytest.raises(ValueError, match=r"short\.ckpt has other tensors than"):
        average([short, found])


def test_the_name_of_the_output_is_checked_first(checkpoints, capsys):
    with pytest.raises(SystemExit):
        main([checkpoints[0], "mean.ckpt"])
    assert (
        "mean.ckpt: the ending names no format; give one of safetensors (.safetensors), torchvision (.pth)"
        in capsys.readouterr().err
    )
