"""The page about residual networks: counted costs, the comparison with little data, and what the command writes."""

import csv
import json

import pytest

from detection.backbone_tool import why_residual
from detection.backbone_tool.classifier_costs import ClassifierCosts, classifier_costs
from detection.backbone_tool.residual import Curve
from detection.backbone_tool.transfer import Accuracy, Settings, compare, interval
from detection.backbone_tool.why_residual import middle_gradients
from detection.commands.main import main


def test_costs_are_those_of_the_papers():
    """Parameters as torchvision lists them; He et al. 2015, table 1, has the operations of the ResNet."""
    vgg, resnet = classifier_costs({"VGG": ["vgg16"], "ResNet": ["resnet18"]})
    assert (vgg.family, vgg.parameters, resnet.parameters) == ("VGG", 138_357_544, 11_689_512)
    assert vgg.multiply_adds == pytest.approx(15.5e9, rel=0.01)
    assert resnet.multiply_adds == pytest.approx(1.8e9, rel=0.02)


@pytest.mark.slow
def test_152_layers_cost_less_than_a_vgg_of_19():
    """He et al. 2015, section 3.3 and table 1."""
    costs = {one.name: one for one in classifier_costs()}
    assert costs["vgg19"].multiply_adds == pytest.approx(19.6e9, rel=0.01)
    assert costs["resnet34"].multiply_adds == pytest.approx(3.6e9, rel=0.03)
    assert costs["resnet152"].multiply_adds < 0.6 * costs["vgg19"].multiply_adds
    assert costs["resnet152"].parameters < 0.5 * costs["vgg19"].parameters


def test_the_interval_is_students():
    mean, half = interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6)
    assert half == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)


def test_the_gradients_halfway_are_a_mean_over_the_middle():
    curve = Curve("resnet18", [*range(10)], [0.0] * 10, [[float(k), 2.0 * k] for k in range(10)])
    assert middle_gradients(curve) == [4.5, 9.0]


def test_the_page_has_plots_and_numbers(tmp_path):
    curves = [Curve(name, [1, 2], [0.9, 0.5], [[1.0] * 5, [0.5] * 5]) for name in ("plain18", "resnet18")]
    costs = [ClassifierCosts("VGG", "vgg16", 138_357_544, 15_500_000_000)]
    transfer = [Accuracy(16, (0.8, 0.9), (0.4, 0.5))]
    results = why_residual.Results(curves, costs, 0.05, transfer)
    file = why_residual.write(tmp_path, why_residual.Experiment(depths=(18,), seeds=2), results, "rcnn why")
    page = file.read_text()
    assert page.count("data:image/png;base64,") == 4
    for text in ("138.4", "15.5", "rcnn why", "85.0 ± 63.5", "45.0 ± 63.5", "A deeper plain network", "seeds"):
        assert text in page
    assert json.loads((tmp_path / "results.json").read_text())["transfer"][0]["scratch"] == [0.4, 0.5]
    assert (tmp_path / "transfer.csv").read_text().splitlines()[1] == "16,0.8,0.9,0.4,0.5"


@pytest.mark.slow
def test_the_command_writes_the_page_and_its_numbers(tmp_path, capsys):
    options = ["--steps", "4", "--every", "2", "--width", "4", "--pictures", "32", "--depths", "18"]
    options += ["--seeds", "2", "--transfer-steps", "2", "--counts", "8", "12", "--first-steps", "10"]
    assert main(["backbones", "why-residual", "--output", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    assert "plain18: training error" in printed
    assert "written: " in printed
    page = (tmp_path / "why-residual.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    for text in ("A deeper plain network", "Gradients by depth", "cost less than VGG", "Transfer with little data"):
        assert text in page
    found = json.loads((tmp_path / "results.json").read_text())
    assert [curve["name"] for curve in found["curves"]] == ["plain18", "resnet18"]
    assert [one["images"] for one in found["transfer"]] == [8, 12]
    assert all(len(one["scratch"]) == 2 for one in found["transfer"])
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert {row["network"] for row in rows} == {"plain18", "resnet18"}
    assert (
        (tmp_path / "transfer.csv").read_text().splitlines()[0].startswith("images,transferred_seed0,transferred_seed1")
    )
    assert {"errors.png", "gradients.png", "costs.png", "transfer.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_comparison_with_little_data_repeats_itself():
    settings = Settings("resnet10", width=4, side=24, first_images=16, first_steps=10, steps=2)
    error, found = compare([4, 8], 2, settings)
    assert 0 <= error <= 1
    assert [(one.images, len(one.transferred), len(one.scratch)) for one in found] == [(4, 2, 2), (8, 2, 2)]
    assert all(0 <= value <= 1 for one in found for value in (*one.transferred, *one.scratch))
    assert compare([4, 8], 2, settings) == (error, found)
