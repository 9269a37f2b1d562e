"""`rcnn evaluate` and `rcnn compare` for classifiers: numbers, files, page, chosen images, errors."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch

from backbones.classifiers import Preprocessing, classifier
from detection import compare, evaluate
from detection.classifier_files import load_classifier, save_classifier
from detection.commands.main import main
from detection.data.image import read_image
from detection.data.labelled import from_folders, split
from detection.evaluation.class_samples import OneClass, SeveralClasses, draws, spread
from detection.evaluation.classification import ClassificationEvaluator
from detection.evaluation.multi_label import MultiLabelEvaluator
from detection.shapes import write_shapes
from tests.support.labelled import write_digits

NAMES = tuple(f"digit{n}" for n in range(6))


def write_model(folder, seed=0, several=False):
    """A random classifier of six digits, whose logits are of the size of 1."""
    torch.manual_seed(seed)
    model = classifier("resnet10", 6, width=8)
    torch.nn.init.normal_(model.last_layer.weight, std=1.0)
    model.names, model.multi_label = NAMES, several
    model.set_preprocessing(Preprocessing(32, 32))
    folder.mkdir()
    save_classifier(model, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "images", 5, classes=6)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return [write_model(place / str(seed), seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def evaluated(models, digits, tmp_path_factory):
    """Folders of two evaluations; only to be read."""
    place = tmp_path_factory.mktemp("evaluated")
    for k, model in enumerate(models):
        assert main(["evaluate", str(model), "--data", str(digits), "-o", str(place / f"{k}"), "--workers", "0"]) == 0
    return [place / "0", place / "1"]


def test_the_numbers_are_those_of_the_evaluator(evaluated, models, digits):
    report = json.loads((evaluated[0] / "report.json").read_text())["classification"]
    model, evaluator = load_classifier(models[0]), ClassificationEvaluator(NAMES)
    rows = list(csv.DictReader((evaluated[0] / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 30
    for index, row in enumerate(rows):
        image = read(digits / row["file"])
        with torch.no_grad():
            logits = model(image[None])
        label = NAMES.index(row["label"])
        evaluator.add(torch.tensor([index]), torch.tensor([label]), logits, torch.zeros(1))
        scores = logits.softmax(dim=1)[0]
        assert row["predicted"] == NAMES[int(logits.argmax())]
        assert float(row["score"]) == pytest.approx(float(scores.max()), abs=1e-4)
        assert float(row["score_of_label"]) == pytest.approx(float(scores[label]), abs=1e-4)
        assert int(row["rank_of_label"]) == 1 + int((scores > scores[label]).sum())
    found = evaluator.evaluate()
    for name in ("top1", "top5", "class_mean"):
        assert report["numbers"][name]["value"] == pytest.approx(found[name])
        assert report["numbers"][name]["error"] > 0
    assert (np.array(report["confusion"]) == evaluator.confusion()).all()
    assert [row["name"] for row in report["classes"]] == list(NAMES)


def read(path):
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


def test_the_page_names_the_scores_and_shows_wrong_images(evaluated):
    page = (evaluated[0] / "report.html").read_text()
    for text in ("top-1 accuracy", "Confusion matrix", "Calibration", "Wrong images", "true: digit", "predictions.csv"):
        assert text in page
    assert page.count("data:image/jpeg;base64,") == 12
    assert {path.name for path in evaluated[0].iterdir()} == {
        "report.html", "report.json", "classes.csv", "predictions.csv"
    }  # fmt: skip


def test_compare_gives_differences_with_intervals(evaluated, tmp_path, capsys):
    assert main(["compare", *map(str, evaluated), "-o", str(tmp_path), "--resamplings", "200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.split("comparison: ")[0])[str(evaluated[1])]
    numbers = {row["name"]: row for row in found["classification/numbers"]}
    reports = [json.loads((folder / "report.json").read_text())["classification"]["numbers"] for folder in evaluated]
    top1 = numbers["top-1 accuracy"]
    assert [top1["first"], top1["second"]] == [pytest.approx(report["top1"]["value"]) for report in reports]
    assert top1["low"] <= top1["second"] - top1["first"] <= top1["high"]
    assert [row["name"] for row in found["classification/classes"]] == list(NAMES)
    assert "Classification: accuracy or AP by class" in (tmp_path / "comparison.html").read_text()
    same = compare(evaluated[0], evaluated[0], resamplings=20)["classification/numbers"]
    assert all((one.difference, one.low, one.high) == (0, 0, 0) for one in same)


def test_evaluations_of_other_images_or_of_detectors_are_not_compared(evaluated, tmp_path, capsys):
    shutil.copytree(evaluated[1], tmp_path / "other")
    report = json.loads((tmp_path / "other" / "report.json").read_text())
    report["about"]["image_ids_sha256"] = "other"
    (tmp_path / "other" / "report.json").write_text(json.dumps(report))
    assert main(["compare", str(evaluated[0]), str(tmp_path / "other")]) == 2
    assert "other images" in capsys.readouterr().err
    del report["classification"]
    (tmp_path / "other" / "report.json").write_text(json.dumps(report))
    assert main(["compare", str(evaluated[0]), str(tmp_path / "other")]) == 2
    assert "one is of a classifier, the other of a detector" in capsys.readouterr().err


def test_a_damaged_table_is_one_line(evaluated, tmp_path, capsys):
    shutil.copytree(evaluated[1], tmp_path / "other")
    table = tmp_path / "other" / "predictions.csv"
    table.write_text(table.read_text().replace("digit3", "zebra"))
    assert main(["compare", str(evaluated[0]), str(tmp_path / "other")]) == 2
    assert "predictions.csv: is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", "64"], "--tile: .* is a classifier, which has no such option"),
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--split", "test"], "the data have no split test|all images"),
    ],
)
def test_wrong_options_are_one_line(models, digits, options, message, tmp_path, capsys):
    code = main(["evaluate", str(models[0]), "--data", str(digits), "-o", str(tmp_path), "--workers", "0", *options])
    printed = capsys.readouterr()
    assert code == (0 if "test" in options else 2)
    assert re.search(message, printed.err + printed.out, re.IGNORECASE)


def test_without_data_the_message_says_what_to_give(models, capsys):
    assert main(["evaluate", str(models[0])]) == 2
    assert "is a classifier; give its images with --data" in capsys.readouterr().err


def test_the_data_of_its_own_training_give_the_images_that_it_held_out(models, digits, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(models[0], run)
    settings = {"root": str(digits.parent), "train": {"images": "images"}, "val": None, "val_fraction": 0.4}
    (run / "config.yaml").write_text(json.dumps({"seed_everything": 3, "data": settings}))
    options = ["--data", str(digits), "-o", str(tmp_path / "out"), "--workers", "0", "--resamplings", "0"]
    assert main(["evaluate", str(run), *options]) == 0
    assert "the images are those that the training of this run had as val" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    _, val = split(from_folders(digits), 0.4, seed=3)
    assert sorted(row["file"] for row in rows) == sorted(val.files[k] for k in range(12))
    assert main(["evaluate", str(run), *options, "--split", "train"]) == 0
    others = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert len(others) == 18
    assert not {row["file"] for row in rows} & {row["file"] for row in others}


def test_a_multi_label_classifier_has_average_precisions(tmp_path, digits):
    model = write_model(tmp_path / "model", several=True)
    lines = [f"digit{n}/{k}.png,digit{n};digit{(n + k) % 6}" for n in range(6) for k in range(5)]
    (digits / "labels.csv").write_text("\n".join(["file,label", *lines]))
    found = evaluate(model, digits / "labels.csv", output=tmp_path / "out", workers=0, resamplings=20)
    assert found.classification.keys() == {"mAP", "F1", "class_mean_F1", "exact"}
    assert np.mean([row["AP"] for row in found.per_class]) == pytest.approx(found.classification["mAP"])
    truth = (found.folder / "truth.csv").read_text().splitlines()
    assert truth[0] == "file,digit0,digit1,digit2,digit3,digit4,digit5"
    assert truth[2] == "digit0/1.png,1,1,0,0,0,0"
    same = compare(found, found, resamplings=10)
    assert same["classification/numbers"][0].first == pytest.approx(found.classification["mAP"], abs=1e-9)
    assert "best F1" in found.report_path.read_text()


def test_crops_of_a_detectors_data_are_evaluated(tmp_path):
    torch.manual_seed(0)
    shapes = write_shapes(tmp_path / "shapes", train=2, val=2, size=(64, 96))
    names = [c["name"] for c in json.loads(next(shapes.rglob("instances_val.json")).read_text())["categories"]]
    model = classifier("resnet10", len(names), width=8)
    model.names = tuple(names)
    model.set_preprocessing(Preprocessing(32, 32))
    found = evaluate(save(model, tmp_path), shapes, output=tmp_path / "out", workers=0, resamplings=0)
    assert found.content["about"]["images_scored"] > 2
    assert np.isnan([found.content["classification"]["numbers"]["top1"]["error"] or np.nan]).all()


def save(model, folder):
    save_classifier(model, folder / "model.safetensors")
    return folder / "model.safetensors"


def test_weights_of_one_give_the_scores_of_the_evaluators():
    torch.manual_seed(0)
    labels, logits = torch.randint(0, 7, (40,)), torch.randn(40, 7)
    evaluator = ClassificationEvaluator([f"{k}" for k in range(7)])
    evaluator.add(torch.arange(40), labels, logits, torch.zeros(40))
    ranks = 1 + (logits > logits.gather(1, labels[:, None])).sum(dim=1)
    judged = OneClass(labels.numpy(), ranks.numpy(), 7)
    expected = evaluator.evaluate()
    assert judged.numbers(np.ones(40)) == {
        name: pytest.approx(expected[name]) for name in ("top1", "class_mean", "top5")
    }
    present = torch.rand(40, 3) < 0.4
    evaluator = MultiLabelEvaluator("abc")
    evaluator.add(torch.arange(40), present, logits[:, :3], torch.zeros(40))
    several = SeveralClasses(present.numpy(), logits[:, :3].sigmoid().numpy())
    expected = evaluator.evaluate()
    assert several.numbers(np.ones(40)) == {name: pytest.approx(expected[name]) for name in expected if name != "loss"}
    twice = np.ones(40)
    twice[3], twice[4] = 2, 0  # a sample with image 3 twice and without image 4
    drawn = np.repeat(np.arange(40), twice.astype(int))
    again = SeveralClasses(present.numpy()[drawn], several.scores[drawn])
    assert several.numbers(twice) == {name: pytest.approx(v) for name, v in again.numbers(np.ones(40)).items()}
    again = OneClass(judged.labels[drawn], judged.ranks[drawn], 7)
    assert judged.numbers(twice) == {name: pytest.approx(v) for name, v in again.numbers(np.ones(40)).items()}


def test_the_spread_of_an_accuracy_is_that_of_a_mean():
    generator = np.random.default_rng(0)
    ranks = np.where(generator.random(400) < 0.7, 1, 2)
    errors, classes = spread(OneClass(np.zeros(400, dtype=np.int64), ranks, 2), 400)
    rate = float((ranks == 1).mean())
    assert errors["top1"] == pytest.approx((rate * (1 - rate) / 400) ** 0.5, rel=0.15)
    assert np.isnan(classes[1])
    assert all(weights.sum() == 400 for weights in draws(400, 3))
