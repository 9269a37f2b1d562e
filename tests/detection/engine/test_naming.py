"""File names from metric names with slashes, and unknown names of metrics."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from detection.engine.errors import InputError
from detection.engine.naming import metric_names, prepare_metric_names
from detection.run_files import evaluations

METRICS = {"epoch": torch.tensor(3), "step": torch.tensor(12), "val/bbox/AP": torch.tensor(0.4123)}


def name_of(callback):
    prepare_metric_names([callback], masks=True)
    return callback.format_checkpoint_name(dict(METRICS))


@pytest.mark.parametrize(
    ("pattern", "inserted", "name"),
    [
        ("{epoch}-{val/bbox/AP:.3f}", True, "epoch=3-val_bbox_AP=0.412.ckpt"),
        ("{epoch}-{val/bbox/AP:.3f}", False, "3-0.412.ckpt"),
        ("e{epoch:02d}-ap{val/bbox/AP:.2f}", False, "e03-ap0.41.ckpt"),
        ("mine-{epoch:02d}-{step}", True, "mine-epoch=03-step=12.ckpt"),
        ("{val/bbox/AP}", True, "val_bbox_AP=0.41"),
        (None, True, "epoch=3-step=12.ckpt"),
        ("plain", True, "plain.ckpt"),
    ],
)
def test_slashes_of_metrics_make_no_folders(pattern, inserted, name):
    callback = ModelCheckpoint(filename=pattern, monitor="val/bbox/AP", auto_insert_metric_name=inserted)
    assert name_of(callback).startswith(name)
    assert Path(name_of(callback)).name == name_of(callback)  # also when settled twice


@pytest.mark.parametrize("pattern", ["{epoch}", "{epoch}-{step}", "a-{epoch:03d}"])
def test_names_without_slashes_are_lightnings(pattern):
    expected = ModelCheckpoint(filename=pattern).format_checkpoint_name(dict(METRICS))
    assert name_of(ModelCheckpoint(filename=pattern)) == expected


@pytest.mark.parametrize("inserted", [True, False])
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("val/AP={val/bbox/AP:.3f}", "write val_AP={val/bbox/AP:.3f}, and set a folder with dirpath"),
        ("mine/{epoch}", "write mine_{epoch}, and set a folder with dirpath"),
        ("{epoch}-{val_bbox_AP:.3f}", "val_bbox_AP is no metric of this training; write val/bbox/AP"),
        ("{epoch}-{bbox/AP:.3f}", "bbox/AP is no metric of this training; write val/bbox/AP"),
        ("{epoch}-{val/bbox/AP:.3f", "write {epoch}-{val/AP:.3f}"),
        ("{val/bbox/AP:02d}", "write {epoch}-{val/AP:.3f}"),
    ],
)
def test_a_pattern_that_cannot_work_is_rejected_with_what_to_write(pattern, inserted, text):
    callback = ModelCheckpoint(filename=pattern, auto_insert_metric_name=inserted)
    with pytest.raises(InputError) as error:
        prepare_metric_names([callback], masks=True)
    assert text in str(error.value)


@pytest.mark.parametrize("kind", [ModelCheckpoint, EarlyStopping])
@pytest.mark.parametrize(
    ("monitor", "text"),
    [("val_loss", "write val/loss"), ("val/segm/AP", "write val/AP"), ("accuracy", "there are train/loss, ")],
)
def test_a_monitor_that_nobody_measures_is_rejected(kind, monitor, text):
    with pytest.raises(InputError) as error:
        prepare_metric_names([kind(monitor=monitor)], masks=False)
    assert f"{kind.__name__}: monitor {monitor} is no metric of this training; {text}" in str(error.value)


def test_metrics_of_the_users_own_callbacks_are_left_alone():
    class Mine(Callback):
        """May log what it likes."""

    prepare_metric_names([Mine(), EarlyStopping(monitor="val/mine"), ModelCheckpoint(monitor="val/mine")], masks=False)


def test_the_metrics_that_are_known_are_those_of_a_run(trained):
    """What the run logged, but for the shares of a step's time, which are for the curves."""
    heads = [(trained / file).read_text().splitlines()[0] for file in ("train.csv", "val.csv")]
    logged = {name for head in heads for name in head.split(",")}
    logged -= {"epoch", "step", *(name for name in logged if name.startswith("train/share_"))}
    assert set(metric_names(masks=True)) == logged


@pytest.mark.parametrize(("inserted", "name"), [("true", "epoch=0-val_bbox_AP="), ("false", "0-")])
def test_a_users_checkpoints_lie_beside_the_runs(run, tmp_path, inserted, name):
    options = {"monitor": "val/bbox/AP", "filename": "{epoch}-{val/bbox/AP:.3f}", "save_top_k": -1}
    callback = {
        "class_path": "ModelCheckpoint",
        "init_args": {**options, "auto_insert_metric_name": inserted == "true"},
    }
    assert run("fit", "--run.folder", "run", "--trainer.callbacks", json.dumps(callback)) == 0
    found = {path.relative_to(tmp_path / "run/checkpoints").as_posix() for path in tmp_path.rglob("*.ckpt")}
    (ap,) = (line["val/bbox/AP"] for line in evaluations(tmp_path / "run"))
    assert found == {"best.ckpt", "last.ckpt", f"{name}{ap:.3f}.ckpt"}
