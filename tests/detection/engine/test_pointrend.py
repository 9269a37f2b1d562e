"""A PointRend by the commands: trained, stopped, resumed, evaluated, predicted, averaged, exported and browsed."""

import json

import pytest
import torch

from backbones import BackboneConfig
from detection import mask_rcnn
from detection.checkpoint import load_model, save_model
from detection.cli import main
from detection.coco.annotations import load_annotations
from detection.commands.main import main as rcnn
from detection.engine.naming import metric_names
from detection.evaluation.engines import statistics
from detection.inference import predict
from detection.inference.info import model_info
from detection.models.point_head import PointRend
from detection.run_files import read_table

SMALL = "{channels: 16, hidden: 32, layer_channels: 16, coarse: 4, resolution: 8, points: 20, subdivisions: 3}"
HEAD = ("--model.mask_head", "null", "--model.point_head", SMALL)


@pytest.fixture(scope="module")
def trained(_one_thread, tiny_config, tmp_path_factory):
    """The folder of a run of two epochs, with a checkpoint after each third step."""
    folder = tmp_path_factory.mktemp("points")
    every = {
        "class_path": "ModelCheckpoint",
        "init_args": {"every_n_train_steps": 3, "save_top_k": -1, "monitor": None},
    }
    stopping = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "val/loss_mask_point", "mode": "min", "patience": 9},
    }
    options = ("--model.schedule.length", "2", "--trainer.callbacks", json.dumps([every, stopping]))
    assert main(["fit", "--config", str(tiny_config), *HEAD, *options, "--run.folder", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_both_losses_and_the_ap_of_masks_are_logged(trained):
    row = read_table(trained / "train.csv")[0]
    assert {"train/loss_mask", "train/loss_mask_point"} <= row.keys()
    row = read_table(trained / "val.csv")[-1]
    assert {f"val/segm/{name}" for name in statistics(iou_type="segm")} | {"val/loss_mask_point"} <= row.keys()
    assert row["val/AP"] == row["val/segm/AP"]
    model = load_model(str(trained / "checkpoints" / "last.ckpt"))[0]
    assert set(metric_names(model)) >= {name for name in row if name.startswith("val/")}


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(trained, run, tmp_path):
    (middle,) = (trained / "checkpoints").glob("*step=3.ckpt")
    again = ("--model.schedule.length", "2", "--run.folder", str(tmp_path / "again"), "--ckpt_path", str(middle))
    assert run("fit", *HEAD, *again) == 0
    one, other = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (trained, tmp_path / "again")
    )
    assert any(name.startswith("model.point_head.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_commands_take_it_from_its_file(trained, shapes, tmp_path):
    file = str(trained / "checkpoints" / "last.ckpt")
    model = load_model(file)[0]
    assert (type(model), model_info(model).kind) == (PointRend, "PointRend")
    found = predict(model, min((shapes / "val").glob("*.jpg")), score_threshold=0)
    assert len(found.masks) == len(found) > 0
    tiled = predict(model, min((shapes / "val").glob("*.jpg")), score_threshold=0, tile=48)
    assert len(tiled.masks) == len(tiled) > 0
    images, output = str(shapes / "val"), str(tmp_path / "found")
    assert rcnn(["predict", file, images, "--output", output, "--score", "0", "--save", "images", "json"]) == 0
    assert all(result["segmentation"] for result in json.loads((tmp_path / "found" / "results.json").read_text()))
    assert rcnn(["evaluate", file, "--data", str(shapes), "--output", str(tmp_path / "report"), "--flip"]) == 0
    assert len(json.loads((tmp_path / "report" / "report.json").read_text())["segm"]["numbers"]) == 12
    assert rcnn(["export", file, "--output", str(tmp_path / "points.safetensors")]) == 0


@pytest.mark.slow
def test_averaged_weights_bfloat16_and_other_classes(trained, run, tmp_path, shapes):
    assert run("fit", *HEAD, "--run.folder", str(tmp_path / "ema"), "--run.average", "{kind: ema, decay: 0.9}") == 0
    assert load_model(str(tmp_path / "ema" / "checkpoints" / "last.ckpt"))[0].point_head is not None
    annotations = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    for category in annotations["categories"][1:]:
        category["name"] = f"new {category['name']}"
    renamed = tmp_path / "renamed.json"
    renamed.write_text(json.dumps(annotations))
    weights = str(trained / "checkpoints" / "last.ckpt")
    assert run("validate", *HEAD, "--ckpt_path", weights, "--trainer.precision", "bf16-mixed") == 0
    options = ("--model.weights", weights, "--run.folder", str(tmp_path / "renamed"))
    files = ("--data.train.annotations", str(renamed), "--data.val.annotations", str(renamed))
    assert run("fit", *HEAD, *options, *files, "--data.val.images", "train") == 0


@pytest.mark.slow
def test_browse_and_doctor(tiny_config, tmp_path, capsys):
    options = ["--config", str(tiny_config), *HEAD]
    assert rcnn(["browse", *options, "--number", "2", "--views", "1", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "browse.html").is_file()
    assert rcnn(["doctor", *options]) == 0
    assert "Anchor coverage" in capsys.readouterr().out


@pytest.mark.slow
def test_it_starts_from_the_weights_of_a_mask_rcnn(run, tmp_path, shapes, capsys):
    categories = load_annotations(shapes / "annotations" / "instances_train.json").categories
    backbone = BackboneConfig("resnet10", norm="group", width=16)
    save_model(mask_rcnn(backbone, categories=categories), tmp_path / "masks.ckpt")
    weights = ("--model.weights", str(tmp_path / "masks.ckpt"))
    assert run("fit", *HEAD, *weights, "--trainer.max_steps", "1", "--run.folder", str(tmp_path / "run")) == 0
    report = "mask head not used, as the model has none; point head initialised randomly, as the weights have none"
    assert report in capsys.readouterr().out
    assert run("fit", "--model.point_head", SMALL, *weights, "--run.folder", str(tmp_path / "both")) == 2
    error = capsys.readouterr().err
    assert "model.point_head makes a detector without model.mask_head; leave model.mask_head out" in error
