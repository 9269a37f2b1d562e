import json

import pytest
import torch

from backbones import classifier
from detection.classifier_files import save_classifier
from detection.commands.main import main
from detection.engine.classify.probing import features_of, network, open_images, probe
from tests.support.labelled import write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("data") / "digits", 40, classes=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model = classifier("resnet10", num_classes=3, width=8)
    model.set_preprocessing(type(model.preprocessing)(32, 32))
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_classifier(model, path)
    return path


def test_features_are_the_inputs_of_the_last_layer(digits, run):
    model = network(str(run), None)
    train, _ = open_images({"root": str(digits), "train": '{"images": "."}', "val": "null"}, model)
    features, labels = features_of(model, train, batch=7)
    assert features.shape == (96, 64)
    assert labels.tolist() == train.images.labels.tolist()
    image = train[5][0][None]
    with torch.inference_mode():
        assert torch.allclose(model.last_layer(features[5:6]), model(image), atol=1e-5)


def test_the_batch_and_the_workers_change_nothing(digits, run):
    model = network(str(run), None)
    _, val = open_images({"root": str(digits), "train": '{"images": "."}', "val": "null"}, model)
    first, second = features_of(model, val, 4)[0], features_of(model, val, 9, workers=1)[0]
    assert torch.allclose(first, second, atol=1e-5)


def test_both_probes_beat_chance_even_with_random_weights(digits, run):
    model = network(str(run), None)
    found = probe(model, *open_images({"root": str(digits), "train": '{"images": "."}', "val": "null"}, model))
    assert [one.name for one in found] == ["20 nearest neighbours", "linear probe"]
    assert all(one.images == 24 and one.top1 > 0.5 for one in found)


def test_the_command_prints_a_table_and_writes_json(digits, run, tmp_path, capsys):
    given = ["backbones", "probe", str(run), "--data", str(digits), "--json", str(tmp_path / "found.json")]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "trained on 96 images, tested on 24 images" in out
    assert "| linear probe |" in out
    assert json.loads((tmp_path / "found.json").read_text())["top1"]["linear probe"] > 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["resnett50"], "resnet50"),
        (["RUN", "--weights", "imagenet"], "has its own weights"),
        (["RUN", "--val-fraction", "0"], "no images for validation"),
        (["RUN", "--batch", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_probed_is_one_line(given, message, digits, run, capsys):
    given = [str(run) if word == "RUN" else word for word in given]
    assert main(["backbones", "probe", *given, "--data", str(digits)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
