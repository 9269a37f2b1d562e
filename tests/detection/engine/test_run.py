from pathlib import Path

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from detection.engine.callbacks import Lines
from detection.engine.pictures import Pictures
from detection.engine.run import RunConfig, callbacks, folder, keep_metrics, loggers


def of(kind, found):
    return [callback for callback in found if isinstance(callback, kind)]


def test_each_run_has_the_next_folder(tmp_path):
    config = RunConfig(name="mine")
    assert folder(config, tmp_path) == str(tmp_path / "mine" / "version_0")
    (tmp_path / "mine" / "version_4").mkdir(parents=True)
    assert folder(config, tmp_path) == loggers(config, tmp_path)[0].log_dir == str(tmp_path / "mine" / "version_5")


def test_a_folder_of_ones_own(tmp_path):
    config = RunConfig(folder=str(tmp_path / "here"))
    assert folder(config, "runs") == config.folder
    assert loggers(config, "runs")[0].log_dir == config.folder


def test_tensorboard_writes_beside(tmp_path):
    pytest.importorskip("tensorboard")
    csv, tensorboard = loggers(RunConfig(name="mine", tensorboard=True), tmp_path)
    assert isinstance(tensorboard, TensorBoardLogger)
    assert Path(tensorboard.log_dir) == Path(csv.log_dir)


def test_going_on_in_a_folder_keeps_the_old_curve(tmp_path):
    (tmp_path / "metrics.csv").write_text("old")
    keep_metrics(RunConfig(folder=str(tmp_path)))
    keep_metrics(RunConfig(folder=str(tmp_path)))
    assert (tmp_path / "metrics_0.csv").read_text() == "old"
    assert not (tmp_path / "metrics.csv").exists()


def test_the_best_checkpoint_has_the_highest_ap():
    (best,) = of(ModelCheckpoint, callbacks(RunConfig(), "val/segm/AP"))
    assert (best.monitor, best.mode, best.filename) == ("val/segm/AP", "max", "best")


def test_early_stopping_and_pictures_by_choice():
    assert not of(EarlyStopping, callbacks(RunConfig(), "val/bbox/AP"))
    found = callbacks(RunConfig(early_stopping=5, pictures=0), "val/bbox/AP")
    assert of(EarlyStopping, found)[0].patience == 5
    assert not of(Pictures, found)


def test_the_users_progress_bar_replaces_ours():
    assert not of(Lines, callbacks(RunConfig(), "val/bbox/AP", [TQDMProgressBar()]))
    assert not of(Lines, callbacks(RunConfig(), "val/bbox/AP", bar=False))
