"""One-stage detectors train and go through every command: tests of other modules, and those that they alone need."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.models import detection as torchvision_detection

from detection.commands.main import main
from detection.inference import load_model
from detection.inference import predict as predict_image
from detection.run_files import evaluations
from tests.detection.engine.conftest import TINY
from tests.detection.engine.test_average import test_an_average_is_resumed_to_the_same_weights
from tests.detection.engine.test_command import test_frozen_parts_are_bit_equal_after_training_and_the_others_are_not
from tests.detection.engine.test_signals import goes_on
from tests.support.commands import browse, compare, doctor, evaluate, export, predict

__all__ = [  # run here with the configs of this module
    "test_an_average_is_resumed_to_the_same_weights",
    "test_frozen_parts_are_bit_equal_after_training_and_the_others_are_not",
]
HEADS = {
    # A score threshold of zero: after four steps, no score is as high as in a trained detector.
    "fcos": {"convs": 1, "level_scales": False, "offset": 0.0, "score_threshold": 0.0, "detections": 10},
    "retinanet": {"convs": 1, "anchors": {"sizes": [8, 16, 32, 64, 128]}, "score_threshold": 0.0, "detections": 10},
}
LOSSES = {"retinanet": {"cls", "box_reg"}, "fcos": {"cls", "box_reg", "centreness"}}

KINDS = {"retinanet": "RetinaNet", "fcos": "FCOS"}


def settings(kind: str) -> dict:
    """The settings of the engine's tests, with another head."""
    shared = {name: TINY["model"][name] for name in ("backbone", "schedule")}
    pyramid = {"channels": 16, "finest": 3, "extra": "conv"}
    return {**TINY, "model": {**shared, "fpn": pyramid, kind: HEADS[kind]}}


@pytest.fixture(scope="module", params=["fcos", pytest.param("retinanet", marks=pytest.mark.slow)])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tiny_config(kind, shapes, tmp_path_factory) -> Path:
    """A config file that all fixtures of the engine's tests take."""
    given = settings(kind)
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(given | {"data": {"root": str(shapes), **given["data"]}}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 5])
def test_what_was_stopped_goes_on_to_the_same_weights(interrupted, run, tmp_path, at):
    goes_on(interrupted, run, tmp_path, at)


def test_training_and_validation_losses_and_ap_of_boxes_are_written(trained, kind):
    metrics = evaluations(trained)[-1]
    assert {f"val/loss_{name}" for name in LOSSES[kind]} <= set(metrics)
    assert all(np.isfinite(metrics[f"val/loss_{name}"]) for name in LOSSES[kind])
    assert metrics["val/AP"] == metrics["val/bbox/AP"]
    assert not any("segm" in name for name in metrics)
    assert f"| Model | {KINDS[kind]} with resnet10" in (trained / "summary.md").read_text()


@pytest.mark.slow
def test_validate_and_test_give_what_training_gave(trained, shapes, tmp_path, capsys):
    assert main(["validate", str(trained), "--output", str(tmp_path / "val")]) == 0
    before, again = (evaluations(folder)[-1] for folder in (trained, tmp_path / "val"))
    numbers = {name: value for name, value in before.items() if "/AP" in name or "/loss" in name}
    assert {name: again[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, nan_ok=True)
    split = json.dumps({"images": "val", "annotations": "annotations/instances_val.json"})
    assert main(["test", str(trained), "--data.test", split, "--output", str(tmp_path / "test")]) == 0
    assert (tmp_path / "test" / "results_bbox.json").is_file()
    assert not (tmp_path / "test" / "results_segm.json").exists()


@pytest.mark.slow
def test_predict_evaluate_and_compare(trained, shapes, tmp_path):
    truth, images = shapes / "annotations/instances_val.json", shapes / "val"
    predict([trained, images, "--output", tmp_path / "found", "--score", 0])
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 4
    predict([trained, images, "--output", tmp_path / "tiles", "--score", 0, "--tile", 64])
    assert len(list((tmp_path / "tiles").glob("*.jpg"))) == 4
    for name in ("one", "two"):
        evaluate([trained, "--annotations", truth, "--images", images, "--output", tmp_path / name, "--resamplings", 5])
        assert "data:image" in (tmp_path / name / "report.html").read_text()
    compare([tmp_path / "one", tmp_path / "two", "--output", tmp_path / "compared"])


def test_doctor_and_browse(tiny_config, kind, tmp_path, capsys):
    doctor(["--config", tiny_config, "--decode"])
    told = capsys.readouterr().out
    assert {"fcos": "model.fcos: radius 1.5, reach 8", "retinanet": "model.retinanet.anchors: sizes"}[kind] in told
    browse(["--config", tiny_config, "--number", 2, "--views", 1, "--output", tmp_path])
    assert (tmp_path / "browse.html").is_file()


def test_exported_files_give_the_same_boxes(trained, shapes, kind, tmp_path):
    image = next((shapes / "val").iterdir())
    expected = predict_image(load_model(trained), image, 0.0)
    assert len(expected) > 0
    export([trained, tmp_path / "model.safetensors"])
    found = predict_image(load_model(tmp_path / "model.safetensors"), image, 0.0)
    assert np.array_equal(found.boxes, expected.boxes)
    export([trained, tmp_path / "model.pth"])
    written = torch.load(tmp_path / "model.pth", weights_only=True)
    with torch.device("meta"):
        theirs = getattr(torchvision_detection, f"{kind}_resnet50_fpn")(
            weights=None, weights_backbone=None, num_classes=6
        )
    names = {name for name in theirs.head.state_dict() if ".conv." not in name}
    assert names <= {name.removeprefix("head.") for name in written if name.startswith("head.")}


def test_other_classes_take_the_weights_of_those_with_the_same_name(trained, run, shapes, tmp_path):
    for split in ("train", "val"):
        content = json.loads((shapes / f"annotations/instances_{split}.json").read_text())
        content["categories"] = content["categories"][1:3]
        kept = {one["id"] for one in content["categories"]}
        content["annotations"] = [one for one in content["annotations"] if one["category_id"] in kept]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    files = [f"--data.{split}.annotations={tmp_path / split}.json" for split in ("train", "val")]
    assert run("fit", *files, "--model.weights", str(trained), "--run.folder", "two", "--trainer.max_steps", "1") == 0
    model, before = load_model("two/checkpoints/last.ckpt"), load_model(trained)
    assert model.num_classes == 2
    first = model.head.logits.bias.detach().view(-1, 2)
    torch.testing.assert_close(first, before.head.logits.bias.detach().view(-1, 5)[:, 1:3], atol=0.05, rtol=0)


@pytest.mark.slow
def test_images_of_six_channels_and_16_bits(run, shapes, tmp_path):
    for split in ("train", "val"):
        content = json.loads((shapes / f"annotations/instances_{split}.json").read_text())
        for image in content["images"]:
            noise = np.random.default_rng(image["id"])
            image["file_name"] = f"{image['id']}.npy"
            shape = (image["height"], image["width"], 6)
            (tmp_path / split).mkdir(exist_ok=True)
            np.save(tmp_path / split / image["file_name"], noise.integers(0, 65535, shape, np.uint16))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    options = ("--model.backbone.in_channels", "6", "--data.depth", "16", "--data.root", str(tmp_path))
    assert run("fit", *options, "--run.folder", "run") == 0
    model = load_model("run/checkpoints/last.ckpt")
    assert (len(model.pixel_mean), model.depth) == (6, 16)
