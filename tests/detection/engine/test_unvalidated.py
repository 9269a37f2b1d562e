"""Training without a validation set: its results, and the settings that it rejects."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from detection.engine.errors import InputError
from detection.engine.unvalidated import check_unvalidated

NONE = [("--data.val", "null"), ("--trainer.limit_val_batches", "0"), ("--trainer.limit_val_batches", "0.0")]


@pytest.mark.parametrize("options", [NONE[0], *(pytest.param(options, marks=pytest.mark.slow) for options in NONE[1:])])
def test_a_run_without_validation_says_so_once_and_leaves_its_last_checkpoint(run, tmp_path, capsys, options):
    assert run("fit", "--run.folder", "run", *options, "--model.schedule.length", "2") == 0
    told = capsys.readouterr().out
    assert told.count("No validation (") == 1
    assert f"({options[0][2:]} {options[1].removesuffix('.0')}): no AP is measured, best.ckpt is not written" in told
    assert "val:" not in told  # not even read
    checkpoints = tmp_path / "run/checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["last.ckpt"]
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 8
    assert run("fit", "--run.folder", "run", *options, "--model.schedule.length", "3", "--resume", "auto") == 0
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 12


@pytest.mark.slow
def test_validation_data_that_are_not_there_are_not_missed(run):
    missing = ("--data.val", "{images: nowhere, annotations: nowhere.json}")
    assert run("fit", "--run.folder", "run", *missing, "--trainer.limit_val_batches", "0") == 0


@pytest.mark.parametrize("options", NONE[:2])
@pytest.mark.parametrize(
    "waiting",
    [
        ("--run.early_stopping", "3"),
        ("--trainer.callbacks", "{class_path: EarlyStopping, init_args: {monitor: val/loss}}"),
        ("--trainer.callbacks", "{class_path: ModelCheckpoint, init_args: {monitor: val/AP}}"),
    ],
)
def test_what_waits_for_a_validation_is_rejected(run, tmp_path, capsys, options, waiting):
    assert run("fit", "--run.folder", "run", *options, *waiting) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"needs a validation, but {options[0][2:]} {options[1]} disables it" in message
    assert not (tmp_path / "run").exists()


def test_metrics_of_the_training_need_no_validation():
    check_unvalidated("data.val null", None, [ModelCheckpoint(monitor="train/loss"), EarlyStopping("train/loss")])
    check_unvalidated("data.val null", None, [ModelCheckpoint()])
    with pytest.raises(InputError, match=r"^run\.early_stopping and EarlyStopping's monitor val/AP needs a validation"):
        check_unvalidated("data.val null", 3, [EarlyStopping("val/AP")])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subcommand", "split"), [pytest.param("validate", "val", marks=pytest.mark.slow), ("predict", "test")]
)
def test_an_evaluation_of_no_data_says_what_to_give(run, trained, capsys, subcommand, split):
    checkpoint = str(trained / "checkpoints/last.ckpt")
    assert run(subcommand, "--ckpt_path", checkpoint, "--data.val", "null", "--run.folder", "out") == 2
    assert f"data.{split} is not set; give its images and annotations" in capsys.readouterr().err
