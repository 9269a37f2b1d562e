import csv
import math

import pytest
import torch

from backbones.resnet import VARIANTS, ResNet
from detection.backbone_tool.residual import SHAPES, STAGES, gradient_norms, make_images, train, write_csv


def test_images_depend_on_the_seed():
    images, labels = make_images(64, 24, seed=3)
    again, same = make_images(64, 24, seed=3)
    other, _ = make_images(64, 24, seed=4)
    assert images.shape == (64, 3, 24, 24)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    assert not torch.equal(images, other)
    assert set(labels.tolist()) == set(range(len(SHAPES)))


def test_gradient_norms_are_those_of_all_parameters_of_a_stage():
    torch.manual_seed(0)
    network = ResNet(VARIANTS["plain18"], width=4, num_classes=3)
    network.classify(torch.randn(2, 3, 32, 32)).sum().backward()
    norms = gradient_norms(network)
    assert len(norms) == len(STAGES)
    flat = torch.cat([p.grad.flatten() for p in network.layer2.parameters()])
    assert norms[2] == pytest.approx(flat.norm().item(), rel=1e-5)  # another order of sums
    total = math.sqrt(sum(p.grad.square().sum().item() for n, p in network.named_parameters() if "fc" not in n))
    assert math.hypot(*norms) == pytest.approx(total, rel=1e-5)


def test_a_run_repeats_itself_and_is_written_down(tmp_path):
    data = make_images(32, 24, seed=0)
    options = {"steps": 4, "batch": 8, "lr": 0.05, "width": 4, "seed": 0, "every": 2}
    curves = [train("resnet18", data, **options), train("resnet18", data, **options)]
    assert curves[0] == curves[1]
    assert curves[0].steps == [2, 4]
    write_csv(curves, tmp_path / "c.csv")
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert len(rows) == 4
    assert float(rows[0]["training_error"]) == pytest.approx(curves[0].errors[0], abs=1e-4)


@pytest.mark.slow
def test_shortcuts_let_a_deep_network_learn_what_a_plain_one_does_not():
    data = make_images(1024, 32, seed=0)
    options = {"steps": 400, "batch": 32, "lr": 0.02, "width": 16, "seed": 0, "every": 50}
    plain, residual = (train(name, data, **options) for name in ("plain34", "resnet34"))
    assert residual.errors[-1] < plain.errors[-1] - 0.1
