"""The folder of a run contains all its files, with any loggers."""

import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from detection.engine.folder import keep_checkpoints_in, loggers, run_folder
from detection.engine.tables import TrainTable
from detection.run_files import evaluations

LOGGERS = '''
from lightning.pytorch.loggers.logger import Logger

class Console(Logger):
    """As users write one for a tracker that keeps nothing on the disk."""

    name, version = "console", "0"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass
'''


class Console(Logger):
    """Keeps nothing on the disk."""

    name, version = "console", "0"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_each_run_has_the_next_folder(tmp_path):
    assert run_folder(None, tmp_path, "mine") == str(tmp_path / "mine" / "version_0")
    (tmp_path / "mine" / "version_4").mkdir(parents=True)
    assert run_folder(None, tmp_path, "mine") == str(tmp_path / "mine" / "version_5")
    assert run_folder("here", tmp_path, "mine") == "here"


@pytest.mark.parametrize("given", [None, True])
def test_the_curve_is_in_the_runs_folder(tmp_path, given):
    (csv,) = loggers(given, str(tmp_path / "here"))
    assert csv.table.path == tmp_path / "here" / "train.csv"


def test_tensorboard_writes_beside(tmp_path):
    pytest.importorskip("tensorboard")
    csv, tensorboard = loggers(None, str(tmp_path / "here"), ["tensorboard"])
    assert isinstance(tensorboard, TensorBoardLogger)
    assert Path(tensorboard.log_dir) == csv.table.path.parent == tmp_path / "here"


def test_the_users_loggers_come_first(tmp_path):
    console, elsewhere = Console(), CSVLogger(tmp_path, name="elsewhere")
    assert loggers(False, str(tmp_path / "here")) == []
    assert [type(one) for one in loggers(console, str(tmp_path / "here"))] == [Console, TrainTable]
    assert loggers([console, elsewhere], str(tmp_path / "here"))[:2] == [console, elsewhere]


def test_checkpoints_without_a_folder_are_kept_in_the_runs(tmp_path):
    mine, ours = ModelCheckpoint(dirpath=tmp_path), ModelCheckpoint()
    keep_checkpoints_in("run", [mine, ours])
    assert (mine.dirpath, ours.dirpath) == (str(tmp_path.resolve()), "run/checkpoints")


ALWAYS = {
    "config.yaml",
    "run.json",
    "val.csv",
    "images/train_batch.jpg",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
}
SAVED = '{class_path: ModelCheckpoint, init_args: {monitor: val/loss, filename: "{epoch}"}}'
PLACE = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: elsewhere}}"


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "others"),
    [
        (("--trainer.logger", "false"), set()),
        pytest.param(("--trainer.logger", "{class_path: my_logger.Console}"), set(), marks=pytest.mark.slow),
        pytest.param(
            ("--trainer.logger", f"[{{class_path: my_logger.Console}}, {PLACE}]"), {"elsewhere"}, marks=pytest.mark.slow
        ),
        pytest.param(
            ("--trainer.logger", PLACE, "--trainer.default_root_dir", "root"), {"elsewhere"}, marks=pytest.mark.slow
        ),
    ],
)
def test_all_files_of_a_run_are_in_its_folder_whatever_logs(run, tmp_path, monkeypatch, options, others):
    (tmp_path / "my_logger.py").write_text(LOGGERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert run("fit", "--run.folder", "run", "--trainer.callbacks", SAVED, *options) == 0
    found = files(tmp_path / "run")
    assert ALWAYS | {"checkpoints/epoch=0.ckpt"} <= found
    assert ("train.csv" in found) == (options[1] != "false")
    assert {path.name for path in tmp_path.iterdir()} - {"my_logger.py", "__pycache__"} == {"run"} | others
    # The same line continues the run, and nothing else may begin in its folder.
    longer = ("--trainer.max_epochs", "2")
    assert run("fit", "--run.folder", "run", "--trainer.callbacks", SAVED, *options) == 2
    assert run("fit", "--run.folder", "run", "--trainer.callbacks", SAVED, *options, "--resume", "auto", *longer) == 0
    assert [line["step"] for line in evaluations(tmp_path / "run")] == [4, 8]


@pytest.mark.slow
def test_without_a_folder_a_run_has_the_next_one_below_the_root(run, tmp_path):
    assert run("fit", "--trainer.logger", "false", "--trainer.default_root_dir", "root") == 0
    assert files(tmp_path / "root/tiny/version_0") >= ALWAYS
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


@pytest.mark.slow
def test_an_evaluation_leaves_its_files_in_its_folder_whatever_logs(run, trained, tmp_path):
    checkpoint = str(trained / "checkpoints/last.ckpt")
    assert run("validate", "--ckpt_path", checkpoint, "--run.folder", "out", "--trainer.logger", PLACE) == 0
    assert "val.csv" in files(tmp_path / "out")
