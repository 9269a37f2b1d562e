"""Training of a classifier that gives an image several classes, its evaluation and its predictions."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
import yaml

from backbones.classifiers import classifier
from detection import load_model, predict
from detection.classifier_files import load_classifier, save_classifier
from detection.commands.main import main
from detection.engine.classify.module import ClassificationModule, LossConfig
from detection.shapes import write_shapes
from tests.support.labelled import digit

TINY = {
    "parts": ["classify_multi_label"],
    "model": {
        "classifier": {"name": "resnet10", "width": 8, "weights": None},
        "loss": {"mixup": 0.2, "cutmix": 1.0, "class_weights": "balanced"},
        "schedule": {"kind": "cosine", "length": 2, "warmup": 0, "reference_batch": 8},
    },
    "data": {"size": 32, "resize": 32, "batch_size": 8, "workers": 0, "flip": 0.0, "val_fraction": 0.25},
    "trainer": {"accelerator": "cpu", "precision": "32-true", "log_every_n_steps": 1, "num_sanity_val_steps": 0},
}


def write_pairs(folder, count, seed=0):
    """Images with none, one or two of the digits 0 to 2, each at a place of its own, and a CSV file of them."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    lines = ["file,label"]
    for index in range(count):
        image = np.full((32, 64, 3), 40, np.uint8)
        numbers = [int(n) for n in generator.permutation(3)[: index % 3]]
        for place, number in enumerate(numbers):
            image[:, 32 * place : 32 * place + 32] = digit(number, generator)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(image, (32, 32)))
        lines.append(f"{index}.png,{';'.join(f'digit{n}' for n in numbers)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "images", 40)


@pytest.fixture(scope="module")
def trained(_one_thread, config, listed, tmp_path_factory):
    """The folder of a finished run; only to be read."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(config), "--data", str(listed), "--val-fraction", "0.25", "--output", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_a_run_logs_and_reports_mean_average_precision(trained):
    rows = list(csv.DictReader((trained / "val.csv").read_text().splitlines()))
    assert {"val/loss", "val/mAP", "val/F1", "val/class_mean_F1", "val/exact"} <= rows[0].keys()
    assert all(0 <= float(row["val/mAP"]) <= 1 for row in rows)
    found = json.loads((trained / "classes_val.json").read_text())
    assert [row["name"] for row in found["classes"]] == ["digit0", "digit1", "digit2"]
    assert found["metrics"]["mAP"] == pytest.approx(float(rows[-1]["val/mAP"]), abs=1e-5)
    page = (trained / "classes_val.md").read_text()
    assert "| class | images | predicted | AP | precision | recall | F1 | best F1 | its threshold |" in page
    best = json.loads((trained / "run.json").read_text())["best"]
    report = (trained / "report.html").read_text()
    assert f"on {found['images']} images: mAP {100 * best['score']:.1f} (" in report
    assert "best F1" in report
    assert best["AP"].keys() == {"mAP", "F1"}
    assert best["score"] == pytest.approx(max(float(row["val/mAP"]) for row in rows), abs=1e-5)
    assert "mAP is the mean of the average precisions" in (trained / "summary.md").read_text()


@pytest.mark.slow
def test_validate_repeats_the_best_validation(trained, tmp_path):
    assert main(["validate", str(trained), "--output", str(tmp_path)]) == 0
    best = json.loads((trained / "run.json").read_text())["best"]["score"]
    assert json.loads((tmp_path / "classes_val.json").read_text())["metrics"]["mAP"] == pytest.approx(best, abs=1e-6)


@pytest.mark.slow
def test_predict_gives_all_classes_above_a_score(trained, listed, tmp_path, capsys):
    model = load_model(trained)
    assert model.multi_label
    image = cv2.imread(str(listed.parent / "2.png"))[..., ::-1].copy()
    scores = model(torch.from_numpy(image).permute(2, 0, 1)[None]).sigmoid()[0].detach()
    every = predict(model, image, score_threshold=0.0)
    assert every.names == tuple(f"digit{n}" for n in scores.argsort(descending=True))
    np.testing.assert_allclose(every.scores, scores.sort(descending=True).values, atol=1e-6)
    middle = float(scores.sort().values[1])
    assert len(predict(model, image, score_threshold=middle).names) == 2
    only = predict(model, image, score_threshold={"digit0": 0.0, "digit1": 1.0, "digit2": 1.0})
    assert only.names == ("digit0",)
    options = ["--score", "0", "digit1=1", "--batch", "7", "-o", str(tmp_path)]
    assert main(["predict", str(trained), str(listed.parent), *options]) == 0
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "file,label,score"
    row = next(row for row in csv.DictReader(lines) if row["file"] == "2.png")
    assert row["label"].split(";") == [name for name in every.names if name != "digit1"]
    assert float(row["score"].split(";")[0]) == pytest.approx(float(max(scores[0], scores[2])), abs=1e-5)
    assert main(["predict", str(trained), str(listed.parent), "--score", "model"]) == 2
    assert "holds no thresholds" in capsys.readouterr().err


def test_a_classifier_of_one_class_has_no_score_option(tmp_path, listed, capsys):
    save_classifier(classifier("resnet10", 3, width=8), tmp_path / "model.safetensors")
    assert not load_classifier(tmp_path).multi_label
    assert main(["predict", str(tmp_path), str(listed.parent), "--score", "0.5"]) == 2
    assert "--score: " in capsys.readouterr().err


def test_the_images_of_a_detectors_data_have_the_classes_of_their_objects(config, tmp_path, capsys):
    shapes = write_shapes(tmp_path / "shapes", train=8, val=4, size=(64, 96))
    options = ["--data", str(shapes), "--output", str(tmp_path / "run"), "--epochs", "1"]
    assert main(["train", str(config), *options]) == 0
    printed = capsys.readouterr().out
    assert "train: 8 images, " in printed
    assert "classes per image" in printed
    assert "The images are crops" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.loss.kind", "cross_entropy"], "data.multi_label needs a sigmoid for each class"),
        (["--data.separator", ""], "data.separator must not be empty"),
        (
            ["--data.train", '{"images": ".", "annotations": ""}'],
            "data.multi_label: an image in a folder of its class has one class",
        ),
    ],
)
def test_wrong_settings_are_one_line(config, listed, options, message, tmp_path, capsys):
    arguments = ["--data", str(listed), "--output", str(tmp_path / "run"), *options]
    assert main(["train", str(config), *arguments]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_checkpoint_of_one_class_per_image_does_not_continue(trained, tmp_path, capsys):
    options = ["--data.multi_label", "false", "--data.train", '{"images": ".", "annotations": "one.csv"}']
    source = write_pairs(tmp_path / "images", 6)
    (source.parent / "one.csv").write_text("file,label\n0.png,digit0\n1.png,digit1\n2.png,digit2\n3.png,digit2\n")
    arguments = ["--data.root", str(source.parent), "--data.val_fraction", "0.5", "--output", str(tmp_path / "out")]
    assert main(["validate", str(trained), *options, *arguments]) == 2
    assert "was trained with data.multi_label true" in capsys.readouterr().err


def test_losses_equal_those_of_pytorch():
    module = ClassificationModule(loss=LossConfig("binary"))
    module.multi_label = True
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), (torch.rand(5, 7) < 0.3).float()
    expected = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, targets).mean(dim=1)
    torch.testing.assert_close(module._losses(logits, targets), expected)
    module.class_weights = torch.arange(1.0, 8.0)
    weighted = torch.nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.arange(1.0, 8.0))
    torch.testing.assert_close(module._losses(logits, targets), weighted(logits, targets).mean(dim=1))
    smooth = ClassificationModule(loss=LossConfig("binary", 0.2))
    smooth.multi_label = True
    expected = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, 0.1 + 0.8 * targets).mean(dim=1)
    torch.testing.assert_close(smooth._losses(logits, targets), expected)


@pytest.mark.slow
def test_a_narrow_resnet_learns_which_digits_an_image_has(tmp_path, config):
    listed = write_pairs(tmp_path / "images", 900)
    settings = {"model.classifier.width": 16, "model.loss": "{kind: binary}", "data.scale": "[0.8, 1.0]"}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    options = ["--epochs", "15", "--batch", "32", "--lr", "0.05", "--output", str(tmp_path / "run"), *words]
    assert main(["train", str(config), "--data", str(listed), *options]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best"]["score"] >= 0.95
