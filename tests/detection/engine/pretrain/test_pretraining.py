"""Pretraining without labels with the command line: files of the run, resuming, hand-over, errors."""

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from backbones import BackboneConfig, build
from backbones.classifiers import ClassifierConfig, build_classifier
from backbones.simsiam import Outputs, SimSiamConfig, build_simsiam
from detection.classifier_files import classifier_file, handed_over, pretrained_file, taken_by_classifier
from detection.commands.image_data import unlabelled_settings
from detection.commands.main import main
from detection.engine import kinds
from detection.engine.classify.data_config import Crops, UnlabelledConfig
from detection.engine.classify.datamodule import UnlabelledDataModule
from detection.engine.pretrain import module as pretraining
from detection.engine.pretrain.module import PretrainingModule
from detection.evaluation.probe import leave_one_out, nearest_neighbours
from detection.shapes import write_shapes
from tests.support.labelled import write_digits

TINY = {
    "model": {
        "network": {"name": "resnet10", "width": 8},
        "simsiam": {"outputs": 32, "inner": 8},
        "schedule": {"kind": "cosine", "length": 2, "warmup": 0, "reference_batch": 8},
        "optimizer": {"lr": 0.05, "decay_norms": True},
    },
    "data": {"size": 16, "resize": 16, "batch_size": 8, "workers": 0},
    "trainer": {"accelerator": "cpu", "precision": "32-true", "log_every_n_steps": 1, "num_sanity_val_steps": 0},
    "run": {"average": {"decay": 0.9}},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Class folders: 3 images of each of 6 classes to train, and 2 to validate."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "train", 3, classes=6)
    write_digits(folder / "val", 2, classes=6, seed=1)
    return folder


@pytest.fixture(scope="module")
def config(digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    data = {"root": str(digits), "train": {"images": "train"}, "val": {"images": "val"}, **TINY["data"]}
    path.write_text(yaml.safe_dump({**TINY, "data": data}))
    return path


@pytest.fixture(scope="module")
def trained(_one_thread, config, tmp_path_factory) -> Path:
    """The folder of a finished run; only to be read."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(config), "--output", str(folder)]) == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content["state_dict"] | {f"last {name}": value for name, value in content["current_model_state"].items()}


def test_a_run_has_the_files_of_other_runs(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {"summary.md", "train.csv", "val.csv", "model.safetensors", "curves.png", "config.yaml", "run.json"}
    assert not names & {"report.html", "classes.txt", "classes_val.json"}
    rows = table(trained / "train.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(-1 <= float(row["train/loss"]) <= 1 and 0.5 < float(row["train/spread"]) < 1.5 for row in rows)
    assert all(0 <= float(row["val/knn"]) <= 1 for row in table(trained / "val.csv"))
    summary = (trained / "summary.md").read_text()
    assert "| Model | SimSiam with resnet10, " in summary
    assert "/train: 18 images |" in summary
    assert "k-NN accuracy" in summary
    assert f"--model.backbone.width 8 --model.backbone.weights {trained}" in summary
    assert json.loads((trained / "run.json").read_text())["result"] == "finished"


def test_the_file_has_the_averaged_network_alone(trained):
    best = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    file = load_file(trained / "model.safetensors")
    assert {f"model.network.{name}" for name in file} == {name for name in best if ".network." in name}
    assert all(torch.equal(value, best[f"model.network.{name}"]) for name, value in file.items())
    assert not any(name.startswith("fc.") for name in file)
    assert pretrained_file(trained) == trained / "model.safetensors"
    assert classifier_file(trained) is None


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3])
def test_a_resumed_run_is_equal_to_the_last_bit(config, trained, tmp_path, monkeypatch, at):
    step = PretrainingModule.training_step

    def stopping(self, batch, batch_idx):
        if self.trainer.global_step == at:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingModule, "training_step", stopping)
        assert main(["train", str(config), "--output", str(tmp_path / "run")]) == 143
    assert main(["train", str(config), "--output", str(tmp_path / "run"), "--resume"]) == 0
    one, two = weights(trained), weights(tmp_path / "run")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert table(trained / "val.csv") == table(tmp_path / "run" / "val.csv")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "run"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints/last.ckpt"])
def test_a_detectors_backbone_takes_every_tensor(trained, name):
    source = trained / name
    config, line = handed_over(BackboneConfig("resnet10", str(source), norm="batch", width=8))
    ours = build(config).state_dict()
    content = load_file(source) if source.suffix == ".safetensors" else weights(trained)
    theirs = {key.removeprefix("model.network."): value for key, value in content.items()}
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())
    count = len([key for key in ours if "tracked" not in key])
    assert str(line).startswith(f"Backbone: {count} of {count} tensors from {source}; not used: ")
    assert ("predictor.0.weight" in str(line)) == (source.suffix == ".ckpt")


def test_a_classifier_takes_every_tensor_but_the_last_layer(trained):
    config, line = taken_by_classifier(ClassifierConfig("resnet10", str(trained), width=8))
    ours, theirs = build_classifier(3, config).network.state_dict(), load_file(trained / "model.safetensors")
    assert ours.keys() - theirs.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert line.startswith("Network: 60 of 62 tensors from ")
    assert line.endswith("; random: fc.bias, fc.weight")


@pytest.mark.parametrize("change", [{"name": "resnet18"}, {"width": 16}])
def test_another_network_is_rejected(trained, change):
    with pytest.raises(ValueError, match=r"set --model\.backbone\.(name resnet10|width 8)"):
        handed_over(replace(BackboneConfig("resnet10", str(trained), width=8), **change))
    with pytest.raises(ValueError, match=r"set --model\.classifier\.(name resnet10|width 8)"):
        taken_by_classifier(replace(ClassifierConfig("resnet10", str(trained), width=8), **change))


@pytest.mark.slow
def test_trainings_begin_with_the_pretrained_network(trained, digits, tmp_path, monkeypatch):
    """A classifier and a detector that learn nothing keep it to the last bit, and say what they took."""
    told: list[str] = []
    monkeypatch.setattr(kinds, "rank_zero_info", told.append)
    theirs = load_file(trained / "model.safetensors")
    small = ["--device", "cpu", "--precision", "fp32", "--workers", "0", "--epochs", "1", "--model.optimizer.lr", "0"]
    network = ["--model.classifier.name", "resnet10", "--model.classifier.width", "8", "--weights", str(trained)]
    sizes = ["--data.size", "16", "--data.resize", "16", "--batch", "8"]
    arguments = ["train", "classify_r18", "--data", str(digits), "--output", str(tmp_path / "classifier")]
    assert main([*arguments, *network, *sizes, *small]) == 0
    assert "60 of 62 tensors" in told[-1]
    found = load_file(tmp_path / "classifier" / "model.safetensors")
    learnt = [name for name in theirs if name.endswith(("weight", "bias"))]
    assert all(torch.equal(found[f"network.{name}"], theirs[name]) for name in learnt)
    shapes = write_shapes(tmp_path / "shapes", train=2, val=1, size=(64, 96))
    backbone = ["--model.backbone.name", "resnet10", "--model.backbone.width", "8", "--model.fpn.channels", "16"]
    backbone += ["--model.backbone.weights", str(trained), "--model.backbone.freeze", "0", "--size", "64", "96"]
    arguments = ["train", "faster_rcnn_r18_fpn_1x_coco", "--data", str(shapes), "--output", str(tmp_path / "detector")]
    assert main([*arguments, *backbone, "--batch", "2", "--run.report", "false", "--run.pictures", "0", *small]) == 0
    assert "Backbone: 60 of 60 tensors" in told[-1]
    taken = torch.load(tmp_path / "detector" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(taken[f"model.backbone.{name}"], theirs[name]) for name in learnt)


def test_the_predictor_keeps_its_rate(config, trained):
    state = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    rates = {bool(group.get("constant")): (group["lr"], len(group["params"])) for group in state["param_groups"]}
    assert rates[True] == (0.05, 5)
    assert rates[False][0] == pytest.approx(0, abs=1e-12)
    network = build_simsiam(ClassifierConfig("resnet10", width=8), SimSiamConfig(32, 8))
    assert rates[False][1] == len(list(network.parameters())) - 5


@pytest.mark.slow
def test_without_the_stopped_gradient_the_outputs_collapse_and_a_warning_says_so(config, tmp_path, monkeypatch, capsys):
    def flowing(outputs: Outputs) -> torch.Tensor:
        pairs = ((outputs.p1, outputs.z2), (outputs.p2, outputs.z1))
        return -sum(torch.cosine_similarity(p, z, dim=1).mean() for p, z in pairs) / 2

    options = ["--epochs", "20", "--model.optimizer.lr", "0.5", "--data.val", "null", "--run.average", "null"]
    assert main(["train", str(config), "--output", str(tmp_path / "good"), *options]) == 0
    assert "the training has collapsed" not in capsys.readouterr().err
    monkeypatch.setattr(pretraining, "simsiam_loss", flowing)
    assert main(["train", str(config), "--output", str(tmp_path / "bad"), *options]) == 0
    assert capsys.readouterr().err.count("the training has collapsed") == 1
    good, bad = (float(table(tmp_path / name / "train.csv")[-1]["train/rank"]) for name in ("good", "bad"))
    assert bad < pretraining.COLLAPSED["rank"] < good


def test_each_image_is_classified_by_the_others():
    features, labels = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    expected = [
        int(nearest_neighbours(features[rest], labels[rest], features[i : i + 1], 4))
        for i in range(9)
        if (rest := [j for j in range(9) if j != i])
    ]
    assert leave_one_out(features, labels, 4).tolist() == expected


@pytest.mark.slow
def test_validate_repeats_the_accuracy(trained, capsys, tmp_path):
    assert main(["validate", str(trained), "--output", str(tmp_path / "out")]) == 0
    best = max(float(row["val/knn"]) for row in table(trained / "val.csv"))
    assert f"k-NN accuracy {100 * best:.1f} of 12 images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_probe_takes_the_network(trained, digits, capsys):
    assert main(["backbones", "probe", str(trained), "--data", str(digits)]) == 0
    assert "linear probe" in capsys.readouterr().out


def test_views_are_two_random_squares_that_depend_on_seed_and_epoch(digits):
    data = UnlabelledDataModule(str(digits / "train"), size=16, resize=16, batch_size=4, workers=0)
    data.read(("train",))
    assert len(data.images["train"]) == 18
    dataset = data._dataset("train")
    views, label, _ = dataset[3, 1]
    assert (tuple(views.shape), views.dtype, label) == ((2, 3, 16, 16), torch.uint8, 0)
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views, dataset[3, 1][0])
    assert not torch.equal(views, dataset[3, 2][0])


def test_the_images_or_the_objects_of_a_coco_file(tmp_path):
    shapes = write_shapes(tmp_path / "shapes", train=3, val=1, size=(64, 96))
    found = dict(unlabelled_settings(str(shapes)))
    assert found["--data.val"] == "null"
    part = json.loads(found["--data.train"])
    whole = UnlabelledDataModule(str(shapes), replace(UnlabelledConfig().train, **part))
    whole.read(("train",))
    assert (len(whole.images["train"]), whole.images["train"].crops) == (3, None)
    assert whole.record()["train"].keys() == {"annotations", "sha256", "images"}
    crops = UnlabelledDataModule(str(shapes), replace(UnlabelledConfig().train, **part), crops=Crops(smallest=4))
    crops.read(("train",))
    assert len(crops.images["train"]) > 3
    assert crops.images["train"].crops is not None
    assert set(crops.images["train"].labels.tolist()) == {0}


def test_data_on_the_command_line(digits, tmp_path):
    found = dict(unlabelled_settings(str(digits)))
    assert json.loads(found["--data.train"])["images"] == "train"
    assert json.loads(found["--data.val"])["images"] == "val"
    found = dict(unlabelled_settings(str(digits / "train")))
    assert (json.loads(found["--data.train"])["images"], found["--data.val"]) == (".", "null")
    with pytest.raises(ValueError, match="no such file or folder"):
        unlabelled_settings(str(tmp_path / "nowhere"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.size", "64"], "data.size 64 must be from 1 to resize, 16"),
        (["--data.gray", "2"], "data.gray 2.0 must be a probability"),
        (["--data.train", '{"images": "nowhere"}'], "nowhere: no such folder"),
        (["--data.train", '{"images": "train", "annotations": "a.csv"}'], "is no COCO file"),
        (["--data.crops.margin", "0.2"], "data.crops needs the objects of a COCO file"),
        (["--data.val", '{"images": "one"}'], "has 1 class, and the k-NN accuracy needs two"),
        (["--model.network.name", "resnet11"], "unknown backbone 'resnet11'"),
        (["--model.network.norm", "frozen"], "model.network.norm frozen"),
        (["--model.simsiam.inner", "0"], "model.simsiam.outputs 32 and inner 0 must be at least 2"),
        (["--batch", "1"], "data.batch_size gives 1 image per device; SimSiam needs at least 2"),
        (["--model.simsiam.iner", "4"], "model.simsiam.iner"),
    ],
)
def test_wrong_settings_are_one_line(config, digits, options, message, tmp_path, capsys):
    if not (digits / "one").exists():
        write_digits(digits / "one", 2, classes=1)
    assert main(["train", str(config), "--output", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "command", ["predict", *(pytest.param(one, marks=pytest.mark.slow) for one in ("evaluate", "export"))]
)
def test_a_pretrained_network_is_no_model(trained, digits, command, capsys, tmp_path):
    shapes = write_shapes(tmp_path / "shapes", train=1, val=1, size=(64, 96))
    arguments = {"predict": [str(digits / "val")], "evaluate": ["--data", str(shapes)], "export": []}[command]
    output = tmp_path / ("out.pth" if command == "export" else "out")
    assert main([command, str(trained), *arguments, "--output", str(output)]) == 2
    assert "was pretrained without labels" in capsys.readouterr().err.strip().splitlines()[-1]
