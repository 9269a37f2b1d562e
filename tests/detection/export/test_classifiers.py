"""Exports of classifiers: equal logits, the same predictions, the program of the folder, files of weights, errors."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import torchvision

from backbones.classifiers import Preprocessing, classifier
from detection import evaluate, load_classifier, load_model, predict
from detection.classifier_files import save_classifier
from detection.commands.main import main
from detection.export import classifiers
from detection.export.classifiers import export_classifier
from detection.export.exported_classifier import ExportedClassifier
from tests.support.labelled import write_digits

NAMES = ("ant", "bee", "cat")
FAMILIES = ("resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg11", "swin_t", "vit_b_16")


def has(*packages):
    return all(importlib.util.find_spec(name) for name in packages)


ONNX = pytest.param("onnx", marks=pytest.mark.skipif(not has("onnx", "onnxscript", "onnxruntime"), reason="needs onnx"))
OPENVINO = pytest.param(
    "openvino", marks=[pytest.mark.skipif(not has("onnx", "onnxscript", "openvino"), reason="needs openvino")]
)


def make(name="resnet10", several=False, seed=0, **options):
    torch.manual_seed(seed)
    model = classifier(name, 3, **options).eval()
    torch.nn.init.normal_(model.last_layer.weight, std=1.0)
    model.names, model.multi_label = NAMES, several
    model.set_preprocessing(Preprocessing(40, 32, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0)))
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_classifier(make(width=8), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 61, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of an export with the format torch; only to be read."""
    folder = tmp_path_factory.mktemp("exported") / "exported"
    export_classifier(make(width=8), folder, "torch")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("format", [ONNX, OPENVINO, "torch"])
def test_the_command_writes_an_export_that_every_command_takes(run, photo, format, tmp_path, capsys):
    folder = tmp_path / "exported"
    assert main(["export", str(run), "--format", format, "-o", str(folder), "--images", str(photo)]) == 0
    assert "parity gate passed: logits of 1 image within " in capsys.readouterr().out
    settings = json.loads((folder / "model.json").read_text())
    assert settings["gate"]["passed"]
    assert settings["rcnn"]["names"] == list(NAMES)
    assert "**Parity gate: passed**" in (folder / "card.md").read_text()
    exported, model = load_model(folder, trust_code=True), load_classifier(run)
    assert isinstance(exported, ExportedClassifier)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images), atol=1e-4, rtol=1e-4)
    ours, theirs = predict(model, str(photo)), predict(exported, str(photo))
    assert ours.names == theirs.names
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    trust = ["--trust-code"] if format == "torch" else []
    assert main(["predict", str(folder), str(photo), "-o", str(tmp_path / "out"), *trust]) == 0
    assert f"a.png,{ours.names[0]}," in (tmp_path / "out" / "predictions.csv").read_text()
    digits = write_digits(tmp_path / "digits", 2, classes=3)
    for k, name in enumerate(NAMES):
        (digits / f"digit{k}").rename(digits / name)
    options = {"workers": 0, "resamplings": 0, "pictures": 0, "trust_code": True}
    numbers = [
        evaluate(source, digits, output=tmp_path / f"evaluated{k}", **options).classification
        for k, source in enumerate((folder, run))
    ]
    assert numbers[0] == pytest.approx(numbers[1])


@pytest.mark.slow
@pytest.mark.parametrize("format", [ONNX, OPENVINO])
@pytest.mark.parametrize("several", [False, True])
def test_the_program_of_the_folder_gives_the_same_scores_without_pytorch(photo, format, several, tmp_path):
    folder = tmp_path / "exported"
    model = make(width=8, several=several)
    export_classifier(model, folder, format)
    blocked = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "
    code = blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"
    options = ["--top", "3", "--score", "0"]
    words = [sys.executable, "-c", code, str(folder / "predict.py"), str(photo), *options]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = json.loads(printed)["classes"]
    expected = predict(model, str(photo), score_threshold=0.0)
    assert [one["name"] for one in found] == list(expected.names)
    np.testing.assert_allclose([one["score"] for one in found], expected.scores, atol=2e-3)  # resized by Pillow


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg11", "swin_t", "vit_b_16"]
)
@pytest.mark.parametrize("format", [ONNX, OPENVINO])
def test_networks_of_all_families_pass_the_gate(name, format, tmp_path):
    model = classifier(name, 3).eval()
    _, gate = export_classifier(model, tmp_path / "exported", format)
    assert gate.passed, gate.line()


@pytest.mark.slow
def test_an_export_has_the_logits_of_the_classifier(exported, photo):
    model, loaded = make(width=8), load_model(exported, trust_code=True)
    assert isinstance(loaded, ExportedClassifier)
    assert (loaded.names, loaded.num_classes, loaded.preprocessing) == (NAMES, 3, model.preprocessing)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(predict(loaded, str(photo)).scores, predict(model, str(photo)).scores, atol=1e-5)
    with pytest.raises(ValueError, match=r"this export takes uint8 \(B, 3, 32, 32\)"):
        loaded(torch.zeros(1, 3, 48, 48, dtype=torch.uint8))
    with pytest.raises(ValueError, match="returns logits alone"):
        loaded.features(images)
    gate = json.loads((exported / "model.json").read_text())["gate"]
    assert gate["passed"]
    assert all(difference <= 1e-4 * max(1, largest) for _, difference, largest in gate["images"])


def test_a_file_alone_says_inside_that_it_is_a_classifier(exported, tmp_path):
    shutil.copy(exported / "model.pt2", tmp_path / "alone.pt2")
    assert isinstance(load_model(tmp_path / "alone.pt2", trust_code=True), ExportedClassifier)


@pytest.mark.slow
def test_another_network_fails_the_gate_and_is_not_loaded(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "_write_model", lambda _, path, __: shutil.copy(exported / "model.pt2", path))
    folder = tmp_path / "exported"
    _, gate = export_classifier(make(width=8, seed=1), folder, "torch")
    assert not gate.passed
    assert gate.line().startswith("FAILED: logits of 5 images within")
    assert "**Parity gate: FAILED**" in (folder / "card.md").read_text()
    with pytest.raises(ValueError, match="its results differ from those of the checkpoint"):
        load_model(folder, trust_code=True)
    assert isinstance(load_model(folder, trust_code=True, unchecked=True), ExportedClassifier)


def test_a_changed_file_or_a_program_without_trust_is_rejected(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "exported")
    with pytest.raises(ValueError, match="can run code"):
        load_model(folder)
    with (folder / "model.pt2").open("ab") as content:
        content.write(b"more")
    with pytest.raises(ValueError, match="differs from the file that was compared"):
        load_model(folder, trust_code=True)


def test_weights_for_torchvision_and_the_mean_of_two(tmp_path):
    models = [make("mobilenet_v3_small", seed=seed) for seed in (0, 1)]
    for k, model in enumerate(models):
        save_classifier(model, tmp_path / f"{k}.safetensors")
    sources = [str(tmp_path / f"{k}.safetensors") for k in (0, 1)]
    assert main(["export", sources[0], "-o", str(tmp_path / "theirs.pth")]) == 0
    theirs = torchvision.models.mobilenet_v3_small(num_classes=3)
    theirs.load_state_dict(torch.load(tmp_path / "theirs.pth", weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs.eval()(images), models[0].network(images))
    assert main(["export", *sources, "-o", str(tmp_path / "mean.safetensors")]) == 0
    mean = load_classifier(tmp_path / "mean.safetensors")
    expected = (models[0].last_layer.weight + models[1].last_layer.weight) / 2
    torch.testing.assert_close(mean.last_layer.weight, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--format", "torch", "-o", "exported", "--nms", "outside"],
            "--nms: .* is a classifier, which has no such option",
        ),
        (["-o", "model.tflite"], "the ending names no format"),
        (["--format", "torch", "-o", "exported.pt2"], "an torch export is a folder"),
        (["--format", "torch", "-o", "exported", "--images", "nothing"], "nothing"),
    ],
)
def test_wrong_options_are_one_line(run, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *options]) == 2
    assert re.search(message, capsys.readouterr().err)
