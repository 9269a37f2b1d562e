"""A Cascade Mask R-CNN by the commands: trained, stopped, resumed, tested, predicted and reported."""

import json

import pytest
import torch

from detection.checkpoint import load_model
from detection.cli import main
from detection.commands.main import main as rcnn
from detection.inference.info import model_info
from detection.models.cascade import CascadeMaskRCNN
from detection.run_files import read_table

CASCADE = ("--model.cascade", "{mask_per_stage: true}")


@pytest.fixture(scope="module")
def trained(_one_thread, tiny_config, tmp_path_factory):
    """The folder of a run of two epochs, with a checkpoint after each third step."""
    folder = tmp_path_factory.mktemp("cascade")
    callback = "lightning.pytorch.callbacks.ModelCheckpoint"
    every = {"class_path": callback, "init_args": {"every_n_train_steps": 3, "save_top_k": -1, "monitor": None}}
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/loss_cls_stage3", "patience": 9},
    }
    options = ("--model.schedule.length", "2", "--trainer.callbacks", json.dumps([every, stopping]))
    assert main(["fit", "--config", str(tiny_config), *CASCADE, *options, "--run.folder", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_losses_of_all_stages_are_logged(trained):
    names = [f"loss_{part}_stage{number}" for number in (1, 2, 3) for part in ("cls", "box_reg")]
    assert {f"train/{name}" for name in names} <= read_table(trained / "train.csv")[0].keys()
    assert {f"val/{name}" for name in names} <= read_table(trained / "val.csv")[0].keys()
    assert {"val/bbox/AP", "val/segm/AP"} <= read_table(trained / "val.csv")[0].keys()


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(trained, run, tmp_path):
    (middle,) = (trained / "checkpoints").glob("*step=3.ckpt")
    again = ("--model.schedule.length", "2", "--run.folder", str(tmp_path / "again"), "--ckpt_path", str(middle))
    assert run("fit", *CASCADE, *again) == 0
    one, other = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in (trained, tmp_path / "again")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_commands_take_it_from_its_file(trained, shapes, tmp_path, capsys):
    file = str(trained / "checkpoints" / "last.ckpt")
    model = load_model(file)[0]
    assert (type(model), model_info(model).kind) == (CascadeMaskRCNN, "Cascade Mask R-CNN")
    images = str(shapes / "val")
    assert rcnn(["predict", file, images, "--output", str(tmp_path / "found")]) == 0
    assert rcnn(["evaluate", file, "--data", str(shapes), "--output", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert rcnn(["export", file, "--output", str(tmp_path / "cascade.safetensors")]) == 0
    assert rcnn(["export", file, "--output", str(tmp_path / "cascade.pth")]) == 2
    assert "torchvision's layout has no Cascade Mask R-CNN" in capsys.readouterr().err
