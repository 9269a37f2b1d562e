"""Classify images in Python and with `rcnn predict`."""

import csv
import json
import re

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from torchvision.transforms._presets import ImageClassification

from backbones import classifier
from backbones.classifiers import Preprocessing
from detection import load_classifier, load_model, predict
from detection.classifier_description import describe_classifier
from detection.classifier_files import classifier_file, save_classifier
from detection.commands.main import main
from detection.inference.classify import classify

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = classifier("resnet10", 6, width=8).eval()
    torch.nn.init.normal_(made.last_layer.weight, std=1.0)
    made.names = NAMES
    made.set_preprocessing(Preprocessing(40, 32, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0)))
    return made


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_classifier(model, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in "abc":
        cv2.imwrite(str(folder / f"{name}.png"), generator.integers(0, 255, (48, 60, 3), dtype=np.uint8))
    return folder


def test_a_saved_classifier_is_the_same(model, saved):
    loaded = load_model(saved)
    assert (loaded.names, loaded.preprocessing, loaded.num_classes) == (NAMES, model.preprocessing, 6)
    assert not loaded.training
    images = torch.randint(0, 256, (2, 3, 32, 32))
    assert torch.equal(loaded(images), model(images))


def test_predict_gives_the_classes_of_highest_score(model, photos):
    image = cv2.imread(str(photos / "a.png"))[..., ::-1].copy()
    found = predict(model, str(photos / "a.png"))
    assert len(found.names) == 5
    assert (np.diff(found.scores) <= 0).all()
    assert found.names == tuple(NAMES[label] for label in found.labels)
    made = model.preprocessing
    mean, std = ([value / 255 for value in values] for values in (made.mean, made.std))
    prepare = ImageClassification(crop_size=32, resize_size=40, mean=mean, std=std)  # torchvision's preprocessing
    expected = model.network(prepare(PIL.Image.open(photos / "a.png"))[None]).softmax(dim=1)[0]
    np.testing.assert_allclose(found.scores, expected.sort(descending=True).values[:5].detach(), atol=1e-5)
    for other in (image, torch.from_numpy(image).permute(2, 0, 1)):
        assert (predict(model, other).scores == found.scores).all()
    assert [one.names for one in predict(model, [image, image])] == [found.names] * 2


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), torch.zeros(1, 8, 8), np.zeros((8, 8, 3), np.float32)])
def test_other_arrays_are_rejected(model, image):
    with pytest.raises(ValueError, match=r"image: (expected RGB|has float32 pixels)"):
        classify(model, [image])


def test_the_command_writes_a_table(model, saved, photos, tmp_path, capsys):
    assert main(["predict", str(saved), str(photos), "-o", str(tmp_path), "--top", "2", "--batch", "2"]) == 0
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["a.png", "b.png", "c.png"]
    assert list(rows[0]) == ["file", "class_1", "score_1", "class_2", "score_2"]
    for row in rows:
        found = predict(model, str(photos / row["file"]))
        assert (row["class_1"], row["class_2"]) == found.names[:2]
        assert float(row["score_1"]) == pytest.approx(float(found.scores[0]), abs=1e-4)
    assert "3 images: " in capsys.readouterr().out


def test_an_unreadable_image_is_one_line_and_the_others_are_classified(saved, photos, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    arguments = [str(tmp_path / "bad.jpg"), str(photos / "a.png"), "-o", str(tmp_path / "out"), "--json"]
    assert main(["predict", str(saved), *arguments]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"] == 1
    assert "bad.jpg: is not an image" in printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", "64"], "--tile: .* is a classifier, which has no such option"),
        (["--top", "0"], "--top 0 and --batch 4 must be at least 1"),
        (["--score", "0.5"], "--score: .* gives an image one class; use --top"),
    ],
)
def test_options_of_detectors_are_rejected(saved, photos, options, message, capsys):
    assert main(["predict", str(saved), str(photos), *options]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classifier", {"name": "os.system"}, "names the unknown network os.system"),
        ("classifier", {"name": "resnet10", "width": 10**9}, "its settings are invalid|other shapes"),
        ("classifier", {"name": "resnet10", "width": "8"}, r"classifier.width is 8; expected a int"),
        ("classifier", {"nmae": "resnet10"}, "has an unknown setting nmae"),
        ("num_classes", 10**9, "its num_classes is 1000000000"),
        ("names", ["a"], "its names must be a list of 6 texts"),
        ("preprocessing", {"crop": 50, "resize": 40}, "its preprocessing has values out of range"),
        ("preprocessing", {"std": [0.0, 1.0, 1.0]}, "its preprocessing has values out of range"),
        ("multi_label", 1, "its multi_label is 1; expected true or false"),
        ("format", 7, "has format 7; this version reads 1"),
    ],
)
def test_a_changed_description_is_rejected(model, tmp_path, key, value, message):
    info = describe_classifier(model) | {key: value}
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"rcnn": json.dumps(info)})
    with pytest.raises(ValueError, match=message):
        load_classifier(tmp_path / "model.safetensors")


def test_what_is_no_classifier(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert classifier_file(tmp_path) is None
    assert classifier_file(tmp_path / "nothing.ckpt") is None
    assert classifier_file("torchvision:maskrcnn_resnet50_fpn") is None


def test_commands_for_detectors_say_that_this_is_a_classifier(saved, capsys):
    assert main(["models", "show", str(saved)]) == 2
    assert "is an image classifier, and a detector is needed" in capsys.readouterr().err
