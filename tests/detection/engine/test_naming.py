"""File names from metric names with slashes, and unknown names of metrics."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from detection import (
    cascade_mask_rcnn,
    cascade_rcnn,
    faster_rcnn,
    fcos,
    keypoint_rcnn,
    mask_rcnn,
    panoptic_fpn,
    pointrend,
    retinanet,
    semantic_fpn,
    task_aligned,
)
from detection.engine.errors import InputError
from detection.engine.naming import metric_names, prepare_metric_names
from detection.models.task_aligned import TaskAlignedConfig
from detection.run_files import evaluations
from tests.support.detectors import make_tiny

METRICS = {"epoch": torch.tensor(3), "step": torch.tensor(12), "val/bbox/AP": torch.tensor(0.4123)}


def name_of(callback):
    prepare_metric_names([callback], make_tiny())
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
        prepare_metric_names([callback], make_tiny())
    assert text in str(error.value)


@pytest.mark.parametrize("kind", [ModelCheckpoint, EarlyStopping])
@pytest.mark.parametrize(
    ("monitor", "text"),
    [("val_loss", "write val/loss"), ("val/segm/AP", "write val/AP"), ("accuracy", "there are train/loss, ")],
)
def test_a_monitor_that_nobody_measures_is_rejected(kind, monitor, text):
    with pytest.raises(InputError) as error:
        prepare_metric_names([kind(monitor=monitor)], faster_rcnn("resnet10", 3))
    assert f"{kind.__name__}: monitor {monitor} is no metric of this training; {text}" in str(error.value)


def test_metrics_of_the_users_own_callbacks_are_left_alone():
    class Mine(Callback):
        """May log what it likes."""

    prepare_metric_names([Mine(), EarlyStopping(monitor="val/mine"), ModelCheckpoint(monitor="val/mine")], make_tiny())


def test_nothing_is_checked_where_the_losses_are_not_known():
    prepare_metric_names([EarlyStopping(monitor="val/mine")], None)


@pytest.mark.slow
def test_the_metrics_that_are_known_are_those_of_a_run(trained):
    """What the run logged, but for the shares of a step's time, which are for the curves."""
    heads = [(trained / file).read_text().splitlines()[0] for file in ("train.csv", "val.csv")]
    logged = {name for head in heads for name in head.split(",")}
    logged -= {"epoch", "step", *(name for name in logged if name.startswith("train/share_"))}
    assert set(metric_names(make_tiny())) == logged


OLD = "loss loss_rpn_cls loss_rpn_loc loss_cls loss_box_reg"
STAGES = " ".join(f"loss_cls_stage{n} loss_box_reg_stage{n}" for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("build", "losses", "scores"),
    [
        (faster_rcnn, OLD, "bbox"),
        (mask_rcnn, f"{OLD} loss_mask", "bbox segm"),
        (pointrend, f"{OLD} loss_mask loss_mask_point", "bbox segm"),
        (keypoint_rcnn, f"{OLD} loss_keypoint", "bbox keypoints"),
        (cascade_rcnn, f"loss loss_rpn_cls loss_rpn_loc {STAGES}", "bbox"),
        (cascade_mask_rcnn, f"loss loss_rpn_cls loss_rpn_loc {STAGES} loss_mask", "bbox segm"),
        (retinanet, "loss loss_cls loss_box_reg", "bbox"),
        (fcos, "loss loss_cls loss_box_reg loss_centreness", "bbox"),
        (task_aligned, "loss loss_cls loss_box_reg loss_distance", "bbox"),
        (semantic_fpn, "loss loss_semantic", "semantic"),
        (panoptic_fpn, f"{OLD} loss_mask loss_semantic", "bbox segm semantic panoptic"),
    ],
)
def test_each_detector_has_the_metrics_of_its_heads(build, losses, scores):
    with torch.device("meta"):
        found = metric_names(build("resnet10", num_classes=2))
    assert [name[6:] for name in found if name.startswith("train/")] == [
        *losses.split(),
        *("lr", "images_per_second", "data_wait"),
    ]
    logged = [name[4:] for name in found if name.startswith("val/")]
    assert [name for name in logged if name.startswith("loss")] == losses.split()
    assert {name.split("/")[0] for name in logged if "/" in name} == set(scores.split())
    assert ("AP" in logged) == (scores != "semantic")


def test_masks_of_a_one_stage_detector_have_a_loss():
    model = task_aligned("resnet10", 2, head=TaskAlignedConfig(masks=True))
    assert {"train/loss_mask", "val/loss_mask", "val/segm/AP"} <= set(metric_names(model))


@pytest.mark.parametrize("name", ["val/loss_centreness", "val/loss_centrenes"])
def test_early_stopping_may_watch_the_loss_of_a_one_stage_detector(name):
    callback, model = EarlyStopping(monitor=name), fcos("resnet10", 2)
    if name.endswith("ness"):
        prepare_metric_names([callback], model)
    else:
        with pytest.raises(InputError, match="write val/loss_centreness"):
            prepare_metric_names([callback], model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inserted", "name"), [("true", "epoch=0-val_bbox_AP="), pytest.param("false", "0-", marks=pytest.mark.slow)]
)
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
