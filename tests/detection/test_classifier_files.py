"""The backbone of a classifier's run becomes that of a detector."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from backbones import BackboneConfig, build, classifier
from backbones.classifiers import Preprocessing
from detection.classifier_files import handed_over, save_classifier
from detection.commands.main import main
from detection.convert.pretrained import load_pretrained
from detection.engine import kinds
from detection.shapes import write_shapes
from tests.support.labelled import write_digits

MADE = Preprocessing(36, 32, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))


def saved(folder, name="resnet10", **options):
    torch.manual_seed(0)
    model = classifier(name, 4, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    model.set_preprocessing(MADE)
    folder.mkdir()
    save_classifier(model, folder / "model.safetensors")
    return model


def test_a_backbone_takes_all_tensors_and_the_preprocessing_of_a_classifier(tmp_path):
    model = saved(tmp_path / "run", width=8)
    config, line = handed_over(BackboneConfig("resnet10", str(tmp_path / "run"), norm="frozen", width=8))
    backbone = build(config)
    theirs, ours = model.network.state_dict(), backbone.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert len(ours) == len([name for name in theirs if "tracked" not in name]) - 2
    assert line == (
        f"Backbone: {len(ours)} of {len(ours)} tensors from {tmp_path / 'run' / 'model.safetensors'}; not used: "
        "fc.bias, fc.weight; mean 100 110 120, std 50 60 70, norm frozen"
    )
    assert (backbone.mean, backbone.std, config.norm) == (MADE.mean, MADE.std, "frozen")
    images = torch.randint(0, 256, (1, 3, 64, 64)).float()
    normalised = (images - torch.tensor(MADE.mean).view(3, 1, 1)) / torch.tensor(MADE.std).view(3, 1, 1)
    pooled = backbone.eval()(normalised)[-1].mean(dim=(2, 3))
    torch.testing.assert_close(pooled, model.eval().features(images))


def test_a_network_of_torchvision_is_handed_over_too(tmp_path):
    model = saved(tmp_path / "run", "mobilenet_v3_small")
    config, line = handed_over(BackboneConfig("mobilenet_v3_small", str(tmp_path / "run")))
    state = model.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in build(config).state_dict().items() if name in state)
    assert "classifier.0.bias" in str(line)


@pytest.mark.parametrize(
    ("theirs", "ours", "norm"), [("group", "frozen", "group"), ("batch", "group", "frozen"), ("batch", "sync", "sync")]
)
def test_the_norm_is_of_a_kind_that_the_weights_fit(tmp_path, theirs, ours, norm):
    saved(tmp_path / "run", width=8, norm=theirs)
    config, _ = handed_over(BackboneConfig("resnet10", str(tmp_path / "run"), norm=ours, width=8))
    assert config.norm == norm
    build(config)


def test_the_users_mean_stays_and_other_weights_are_left_alone(tmp_path):
    saved(tmp_path / "run", width=8)
    given = BackboneConfig("resnet10", str(tmp_path / "run"), width=8, mean=(1.0, 2.0, 3.0))
    assert handed_over(given)[0].mean == (1.0, 2.0, 3.0)
    for weights in (None, "imagenet", str(tmp_path / "nothing")):
        assert handed_over(replace(given, weights=weights)) == (replace(given, weights=weights), None)


@pytest.mark.parametrize("change", [{"name": "resnet18"}, {"width": 16}])
def test_another_network_is_rejected(tmp_path, change):
    saved(tmp_path / "run", width=8)
    with pytest.raises(ValueError, match=r"set --model\.backbone\.(name resnet10|width 8)"):
        handed_over(replace(BackboneConfig("resnet10", str(tmp_path / "run"), width=8), **change))


@pytest.mark.slow
def test_from_crops_to_a_detector_by_the_command_line(tmp_path, capsys, monkeypatch):
    """A classifier learns from the crops of the objects, and a detector begins with its averaged weights."""
    torch.set_num_threads(1)
    shapes = write_shapes(tmp_path / "shapes", train=6, val=3, size=(64, 96))
    small = ["--device", "cpu", "--precision", "fp32", "--workers", "0", "--epochs", "1"]
    network = ["--model.classifier.name", "resnet10", "--model.classifier.width", "8"]
    options = ["--data.size", "32", "--data.resize", "32", "--batch", "4", "--run.average.decay", "0.5", *network]
    run = tmp_path / "crops"
    assert main(["train", "classify_r18", "--data", str(shapes), "--output", str(run), *options, *small]) == 0
    printed = capsys.readouterr().out
    assert "The images are crops of the objects" in printed
    assert "train: " in printed
    assert " crops, " in printed
    settings = {"backbone": {"name": "resnet10", "norm": "group", "width": 8}, "fpn": {"channels": 16}}
    (tmp_path / "detector.yaml").write_text(json.dumps({"model": settings, "run": {"report": False, "pictures": 0}}))
    sizes = ["--size", "64", "96", "--batch", "2", "--model.backbone.weights", str(run), "--model.optimizer.lr", "0"]
    arguments = [str(tmp_path / "detector.yaml"), "--data", str(shapes), "--output", str(tmp_path / "detector")]
    told: list[str] = []
    monkeypatch.setattr(kinds, "rank_zero_info", told.append)
    assert main(["train", *arguments, *sizes, *small]) == 0
    assert "fc.bias, fc.weight; mean 123.675 116.28 103.53" in told[0]
    found, averaged = load_pretrained(str(tmp_path / "detector")), load_file(run / "model.safetensors")
    assert found.config.backbone.norm == "frozen"
    taken = [name for name in found.state if name.startswith("backbone.")]
    assert len(taken) == 60
    assert all(torch.equal(found.state[n], averaged[f"network.{n.removeprefix('backbone.')}"]) for n in taken)


def test_data_of_other_forms_on_the_command_line(tmp_path):
    from detection.commands.image_data import image_settings

    digits = write_digits(tmp_path / "digits", 1, classes=2)
    found = dict(image_settings(str(digits), 0.3))
    assert (found["--data.root"], found["--data.val"], found["--data.val_fraction"]) == (str(digits), "null", "0.3")
    assert json.loads(found["--data.train"]) == {"images": ".", "annotations": ""}
    (digits / "labels.csv").write_text("file,label\ndigit0/0.png,zero\n")
    found = dict(image_settings(str(digits / "labels.csv")))
    assert json.loads(found["--data.train"]) == {"images": ".", "annotations": "labels.csv"}
    write_digits(tmp_path / "both" / "train", 1, classes=2)
    write_digits(tmp_path / "both" / "valid", 1, classes=2)
    found = dict(image_settings(str(tmp_path / "both")))
    assert json.loads(found["--data.val"])["images"] == "valid"
    with pytest.raises(ValueError, match="no such file or folder"):
        image_settings(str(tmp_path / "nowhere"))
