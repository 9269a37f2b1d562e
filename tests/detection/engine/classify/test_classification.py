"""Training of a classifier with the command line: files of the run, resuming, evaluation, errors."""

import csv
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from detection.commands.main import main
from detection.engine.classify.data_config import LabelledConfig
from detection.engine.classify.datamodule import LabelledDataModule
from detection.engine.classify.module import ClassificationModule, LossConfig
from detection.engine.errors import InputError
from tests.support.labelled import write_digits

TINY = {
    "model": {
        "classifier": {"name": "resnet10", "width": 8, "dropout": 0.1},
        "loss": {"label_smoothing": 0.1, "class_weights": "balanced", "mixup": 0.2, "cutmix": 1.0},
        "schedule": {"kind": "cosine", "length": 2, "warmup": 0, "reference_batch": 8},
        "optimizer": {"lr": 0.05},
    },
    "data": {"val": None, "val_fraction": 0.25, "size": 32, "resize": 36, "batch_size": 8, "workers": 0},
    "trainer": {"accelerator": "cpu", "precision": "32-true", "log_every_n_steps": 1, "num_sanity_val_steps": 0},
    "run": {"average": {"decay": 0.9}},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """8 images of each of 6 classes."""
    return write_digits(tmp_path_factory.mktemp("digits") / "images", 8, classes=6)


@pytest.fixture(scope="module")
def config(digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    data = {"root": str(digits.parent), "train": {"images": "images"}, **TINY["data"]}
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


@pytest.mark.slow
def test_a_run_has_the_files_of_a_detectors_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert "report.html" in names
    assert names >= {"summary.md", "train.csv", "val.csv", "model.safetensors", "classes.txt", "curves.png"}
    assert names >= {"config.yaml", "run.json", "log.txt", "classes_val.json", "classes_val.md", "checkpoints"}
    assert (trained / "classes.txt").read_text().split() == [f"digit{n}" for n in range(6)]
    rows = table(trained / "val.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert 0 <= float(rows[1]["val/top1"]) <= float(rows[1]["val/top5"]) <= 1
    assert len(table(trained / "train.csv")) == 2 * (36 // 8)
    summary = (trained / "summary.md").read_text()
    assert "| Model | Classifier resnet10, 0.1 M parameters |" in summary
    assert "top-1 accuracy" in summary
    assert "36 images, 36 objects, 6 classes" in summary
    record = json.loads((trained / "run.json").read_text())
    assert record["result"] == "finished"
    assert record["best"]["AP"].keys() == {"top-1", "top-5"}


def test_the_page_of_the_classes_has_what_the_evaluation_found(trained):
    found = json.loads((trained / "classes_val.json").read_text())
    assert found["images"] == 12
    assert [row["images"] for row in found["classes"]] == [2] * 6
    assert sum(map(sum, found["confusion"])) == 12
    last = float(table(trained / "val.csv")[-1]["val/top1"])
    assert found["metrics"]["top1"] == pytest.approx(last, abs=1e-5)
    assert sum(found["confusion"][n][n] for n in range(6)) == pytest.approx(12 * last, abs=1e-3)
    assert "| digit3 | 2 | " in (trained / "classes_val.md").read_text()


def test_the_report_is_that_of_the_best_validation(trained):
    page = (trained / "report.html").read_text()
    best = json.loads((trained / "run.json").read_text())["best"]
    assert f"epoch {best['epoch']}, step {best['step']}" in page
    assert f"Classifier resnet10 on 12 images: top-1 accuracy {100 * best['AP']['top-1']:.1f} (" in page
    assert "Confusion matrix" in page
    wrong = round(12 * (1 - best["AP"]["top-1"]))
    assert page.count("data:image/jpeg;base64,") == page.count("true: digit") == wrong


def test_validate_repeats_the_accuracy_of_the_best_checkpoint(trained, tmp_path, capsys):
    assert main(["validate", str(trained), "--output", str(tmp_path / "out")]) == 0
    best = max(float(row["val/top1"]) for row in table(trained / "val.csv"))
    assert json.loads((tmp_path / "out" / "classes_val.json").read_text())["metrics"]["top1"] == pytest.approx(
        best, abs=1e-6
    )
    assert f"val: top1 {100 * best:.1f}" in capsys.readouterr().out


def test_validate_takes_the_weights_of_a_run(trained, tmp_path, capsys):
    assert main(["validate", str(trained / "model.safetensors"), "--output", str(tmp_path / "out")]) == 0
    best = max(float(row["val/top1"]) for row in table(trained / "val.csv"))
    assert json.loads((tmp_path / "out" / "classes_val.json").read_text())["metrics"]["top1"] == pytest.approx(
        best, abs=1e-6
    )
    alone = tmp_path / "model.safetensors"
    shutil.copy(trained / "model.safetensors", alone)
    assert main(["validate", str(alone)]) == 2
    assert "give the folder of the run" in capsys.readouterr().err


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content["state_dict"] | {f"last {name}": value for name, value in content["current_model_state"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 4])
def test_a_resumed_run_is_equal_to_the_last_bit(config, trained, tmp_path, monkeypatch, at):
    step = ClassificationModule.training_step

    def stopping(self, batch, batch_idx):
        if self.trainer.global_step == at:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationModule, "training_step", stopping)
        assert main(["train", str(config), "--output", str(tmp_path / "run")]) == 143
    assert main(["train", str(config), "--output", str(tmp_path / "run"), "--resume"]) == 0
    one, two = weights(trained), weights(tmp_path / "run")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert table(trained / "val.csv") == table(tmp_path / "run" / "val.csv")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "run"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_images_cannot_continue_a_run(config, trained, digits, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    more = shutil.copytree(digits, tmp_path / "data" / "images")
    shutil.copy(more / "digit0" / "0.png", more / "digit0" / "new.png")
    options = ["--output", str(tmp_path / "run"), "--resume", "--data.root", str(more.parent), "--epochs", "3"]
    assert main(["train", str(config), *options]) == 2
    assert "data.train has 37 images, and had 36" in capsys.readouterr().err


def test_classes_of_a_checkpoint_must_be_those_of_the_images(trained, tmp_path, capsys):
    write_digits(tmp_path / "other", 8, classes=4)
    assert main(["validate", str(trained), "--data", str(tmp_path / "other"), "--output", str(tmp_path / "out")]) == 2
    assert "has other classes than the images: 6 and 4 classes; only one has digit4, digit5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.size", "64"], "data.size 64 must be from 1 to resize, 36"),
        (["--data.flip", "2"], "data.flip 2.0 must be a probability"),
        (["--data.train", '{"images": "nowhere"}'], "nowhere: no such folder"),
        (["--data.train", '{"images": "images", "annotations": "no.csv"}'], "data.train: no file"),
        (["--model.classifier.name", "resnet11"], "unknown backbone 'resnet11'"),
        (["--model.loss.mixup", "-1"], "model.loss.mixup -1.0 and cutmix 1.0 must not be below 0"),
        (["--data.val_fraction", "0.01"], "data.val_fraction 0.01 of 48 images leaves none for validation"),
        (["--size", "64", "64"], "--size: this model sees squares"),
        (["--model.classifier.nmae", "resnet18"], "model.classifier.nmae"),
    ],
)
def test_wrong_settings_are_one_line(config, options, message, tmp_path, capsys):
    assert main(["train", str(config), "--output", str(tmp_path / "run"), *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]


def test_data_settings_are_checked():
    with pytest.raises(InputError, match=r"data.val_fraction 1.0 must be from 0 to below 1"):
        LabelledDataModule(val_fraction=1.0)
    assert not LabelledConfig(val=None, val_fraction=0).validates


@pytest.mark.slow
def test_a_run_can_start_from_the_weights_of_another_one(config, trained, tmp_path):
    options = ["--weights", str(trained), "--model.optimizer.lr", "0", "--epochs", "1", "--run.average", "null"]
    assert main(["train", str(config), "--output", str(tmp_path / "run"), *options]) == 0
    one, two = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "run"))
    parameters = [name for name in one if name.endswith(("weight", "bias"))]
    assert all(torch.equal(one[name], two[name]) for name in parameters)


@pytest.mark.slow
def test_a_narrow_resnet_learns_digits(tmp_path):
    """In less than a minute on one core, 98 % of drawn digits that it has not seen."""
    write_digits(tmp_path / "digits", 150)
    options = ["--epochs", "10", "--batch", "32", "--lr", "0.05", "--device", "cpu", "--precision", "fp32"]
    settings = {"model.classifier.width": 16, "model.schedule.kind": "cosine", "data.size": 32, "data.resize": 32}
    settings |= {"data.scale": "[0.6, 1.0]", "data.flip": 0, "data.jitter": 0.2, "data.workers": 0}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    folder = tmp_path / "run"
    assert main(["train", "classify_r18", "--data", str(tmp_path / "digits"), "-o", str(folder), *options, *words]) == 0
    assert max(float(row["val/top1"]) for row in table(folder / "val.csv")) >= 0.98


@pytest.mark.parametrize("kind", ["cross_entropy", "binary"])
def test_losses_equal_those_of_pytorch(kind):
    module = ClassificationModule(loss=LossConfig(kind, 0.1 if kind == "cross_entropy" else 0.0))
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    targets = torch.nn.functional.one_hot(labels, 7).float()
    if kind == "binary":
        expected = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, targets).mean(dim=1)
    else:
        expected = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)(logits, labels)
    torch.testing.assert_close(module._losses(logits, targets), expected)
    module.class_weights = torch.arange(7.0)
    torch.testing.assert_close(module._losses(logits, targets), expected * labels)


def test_mixed_classes_are_present():
    module = ClassificationModule(loss=LossConfig("binary", 0.1, mixed_are_present=True))
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 4), torch.tensor([[0.3, 0.7, 0, 0], [0, 0, 1.0, 0]])
    smooth = torch.tensor([[0.925, 0.925, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(dim=1)
    torch.testing.assert_close(module._losses(logits, targets), expected)
    module.class_weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(module._losses(logits, targets), expected * torch.tensor([1.7, 3.0]))


def test_presence_needs_a_sigmoid_for_each_class():
    with pytest.raises(InputError, match="needs model"):
        ClassificationModule(loss=LossConfig(mixed_are_present=True))


def test_training_may_see_smaller_squares_than_evaluation():
    config = LabelledConfig(size=32, resize=36, train_size=20)
    image = torch.zeros(3, 50, 40, dtype=torch.uint8)
    assert config.transform("train")(image).shape == (3, 20, 20)
    assert config.transform("val")(image).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="train_size must be at least 1"):
        LabelledConfig(train_size=0).check()
