"""A Keypoint R-CNN by the commands: trained, stopped, resumed, tested, predicted, reported, compared and browsed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from detection.checkpoint import load_model
from detection.cli import main
from detection.commands.main import main as rcnn
from detection.engine.naming import metric_names
from detection.evaluation.engines import statistics
from detection.inference import predict
from detection.inference.info import model_info
from detection.models.keypoint_head import KeypointRCNN
from detection.run_files import read_table
from detection.shapes import write_shapes

HEAD = ("--model.mask_head", "null", "--model.keypoint_head", "{convs: 1, channels: 16, resolution: 7}")


@pytest.fixture(scope="module")
def corners(tmp_path_factory):
    """Drawn shapes whose corners are keypoints."""
    return write_shapes(tmp_path_factory.mktemp("corners"), 12, 4, size=(48, 80), keypoints=True)


@pytest.fixture(scope="module")
def trained(_one_thread, tiny_config, corners, tmp_path_factory):
    """The folder of a run of two epochs, with a checkpoint after each third step."""
    folder = tmp_path_factory.mktemp("keypoints")
    callback = "lightning.pytorch.callbacks.ModelCheckpoint"
    every = {"class_path": callback, "init_args": {"every_n_train_steps": 3, "save_top_k": -1, "monitor": None}}
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/keypoints/AP50", "mode": "max", "patience": 9},
    }
    options = ("--model.schedule.length", "2", "--trainer.callbacks", json.dumps([every, stopping]))
    options += ("--data.root", str(corners), "--run.folder", str(folder), "--run.report", "true")
    assert main(["fit", "--config", str(tiny_config), *HEAD, *options]) == 0
    return folder


@pytest.mark.slow
def test_losses_and_the_ten_numbers_are_logged(trained):
    assert "train/loss_keypoint" in read_table(trained / "train.csv")[0]
    row = read_table(trained / "val.csv")[-1]
    assert {f"val/keypoints/{name}" for name in statistics(iou_type="keypoints")} <= row.keys()
    assert {"val/loss_keypoint", "val/bbox/AP"} <= row.keys()
    assert not any("segm" in name for name in row)
    assert row["val/AP"] == row["val/keypoints/AP"]
    model = load_model(str(trained / "checkpoints" / "last.ckpt"))[0]
    assert set(metric_names(model)) >= {name for name in row if name.startswith("val/")}
    assert (trained / "report.html").read_text().count("Keypoints") > 0
    assert list((trained / "images").glob("val_*.jpg"))


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(trained, corners, run, tmp_path):
    (middle,) = (trained / "checkpoints").glob("*step=3.ckpt")
    again = ("--model.schedule.length", "2", "--run.folder", str(tmp_path / "again"), "--ckpt_path", str(middle))
    assert run("fit", *HEAD, *again, "--data.root", str(corners)) == 0
    one, other = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (trained, tmp_path / "again")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_commands_take_it_from_its_file(trained, corners, tmp_path, capsys):
    file = str(trained / "checkpoints" / "last.ckpt")
    model = load_model(file)[0]
    assert (type(model), model_info(model).kind) == (KeypointRCNN, "Keypoint R-CNN")
    assert model.keypoint_head.config.keypoints == 5
    assert model.categories.skeletons[1].names == ("top", "right", "bottom", "left")
    images = str(corners / "val")
    assert (
        rcnn(["predict", file, images, "--output", str(tmp_path / "found"), "--score", "0", "--save", "images", "json"])
        == 0
    )
    for result in json.loads((tmp_path / "found" / "results.json").read_text()):
        assert len(result["keypoints"]) == 3 * {3: 0, 7: 4, 11: 3, 18: 0, 42: 5}[result["category_id"]]
    reports = []
    for name, options in (("plain", ()), ("flipped", ("--flip",))):
        reports.append(str(tmp_path / name))
        assert rcnn(["evaluate", file, "--data", str(corners), "--output", reports[-1], *options]) == 0
        content = json.loads((tmp_path / name / "report.json").read_text())
        assert len(content["keypoints"]["numbers"]) == 10
        assert (tmp_path / name / "results_keypoints.json").is_file()
    assert "keypoints:  AP " in capsys.readouterr().out
    assert rcnn(["compare", *reports, "--output", str(tmp_path / "compare.html")]) == 0
    truth = str(corners / "annotations" / "instances_val.json")
    found = str(tmp_path / "plain" / "results_keypoints.json")
    assert rcnn(["evaluate", found, "--annotations", truth, "--output", str(tmp_path / "again")]) == 0
    first, again = (
        json.loads((tmp_path / name / "report.json").read_text())["keypoints"] for name in ("plain", "again")
    )
    assert first["numbers"] == again["numbers"]
    assert rcnn(["export", file, "--output", str(tmp_path / "keypoints.safetensors")]) == 0


def test_a_prediction_has_keypoints_in_pixels_of_the_image(trained, corners):
    model = load_model(str(trained / "checkpoints" / "last.ckpt"))[0]
    path = min((corners / "val").glob("*.jpg"))
    found = predict(model, path, score_threshold=0)
    assert found.keypoints.shape == (len(found), 5, 3)
    assert len(found) > 0
    height, width = found.size
    assert ((found.keypoints[..., :2] >= 0) & (found.keypoints[..., :2] <= [width + 1, height + 1])).all()
    found = replace(found, labels=np.full(len(found), 2))  # triangles: the detector hardly learned anything
    own = found[0].keypoints
    assert own.shape == (3, 3)
    (one, *_), (result, *_) = found.to_dict()["detections"], found.to_coco(7)
    assert np.array(one["keypoints"]) == pytest.approx(own, abs=1e-3)
    expected = np.array(result["keypoints"]).reshape(-1, 3) + [0.5, 0.5, 0]
    assert expected == pytest.approx(own, abs=1e-3)
    assert found.only(slice(0, 1)).keypoints.shape == (1, 5, 3)
    sure = replace(found, keypoints=np.concatenate([found.keypoints[..., :2], np.ones((len(found), 5, 1))], axis=2))
    assert not np.array_equal(sure.plot(), sure.plot(keypoints=False))
    assert found.to_json()
    tiled = predict(model, path, score_threshold=0, tile=32)
    assert ((tiled.keypoints[..., :2] >= 0) & (tiled.keypoints[..., :2] <= [width + 1, height + 1])).all()


@pytest.mark.slow
def test_browse_and_doctor_show_keypoints(corners, tiny_config, tmp_path, capsys):
    options = ["--config", str(tiny_config), *HEAD, "--data.root", str(corners)]
    assert rcnn(["browse", *options, "--number", "2", "--views", "1", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "browse.html").is_file()
    assert rcnn(["doctor", *options]) in (0, 1)  # a network that small has too few anchors for some objects
    out = capsys.readouterr().out
    assert "Keypoints, train" in out
    assert "upper_right" in out


def test_data_without_keypoints_is_rejected_before_the_training(shapes, run, capsys):
    assert run("fit", *HEAD) == 2
    assert "has no keypoints; train a detector without them: --model.keypoint_head null" in capsys.readouterr().err
