"""The data that trackers receive: with fakes, and read back from real trackers if they are installed."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from detection.engine import trackers
from detection.engine.errors import InputError
from detection.engine.trackers import Trackers, check_trackers, make

SETTINGS = {"model": {"fpn": {"channels": 16}}, "seed_everything": 0}


@pytest.fixture
def folder(tmp_path):
    """A run's folder with one image of a validation, a report and settings."""
    run = tmp_path / "runs/first"
    (run / "images").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    return run


def finish(folder, logger, failed=False):
    """Do what a training does with its trackers: begin, evaluate, end."""
    trainer = SimpleNamespace(loggers=[logger], log_dir=str(folder), is_global_zero=True, sanity_checking=False)
    trainer.fast_dev_run, trainer.ckpt_path, trainer.global_step = False, None, 4
    module, callback = None, Trackers()
    callback.on_fit_start(trainer, module)
    cv2.imwrite(str(folder / "images/val_epoch_001.jpg"), np.full((8, 8, 3), 90, np.uint8))
    callback.on_validation_end(trainer, module)
    callback.on_validation_end(trainer, module)
    (folder / "report.html").write_text("<p>report</p>")
    (folder / "summary.md").write_text("# first")
    cv2.imwrite(str(folder / "curves.png"), np.full((8, 8, 3), 90, np.uint8))
    callback.finish(trainer, failed)


def test_a_tracker_that_is_not_there_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"wandb is not installed; run pip install 'rcnn-toolkit\[wandb\]'"):
        check_trackers(["wandb"])
    with pytest.raises(InputError, match="aim is unknown; choose from tensorboard, wandb, mlflow"):
        check_trackers(["aim"])


class Recorder:
    """Stands for any client: notes the name and the arguments of each call."""

    def __init__(self, calls, name=""):
        self._calls, self._name = calls, name

    def __getattr__(self, name):
        return Recorder(self._calls, f"{self._name}.{name}".strip("."))

    def __call__(self, *arguments, **named):
        self._calls.append((self._name, arguments))


def stand_in(monkeypatch, kind):
    """A logger of a kind without its package, and the calls of its client."""
    calls = []

    class Logger:
        version = run_id = "7"
        experiment = Recorder(calls)

        def log_image(self, *arguments):
            calls.append(("log_image", arguments))

        def log_hyperparams(self, settings):
            calls.append(("log_hyperparams", (settings,)))

    monkeypatch.setattr(trackers, kind, Logger)
    return Logger(), calls


def test_mlflow_gets_settings_and_each_file_once(folder, monkeypatch, capsys):
    logger, calls = stand_in(monkeypatch, "MLFlowLogger")
    finish(folder, logger)
    assert not capsys.readouterr().err
    assert calls[0] == ("log_hyperparams", (SETTINGS,))
    sent = [Path(arguments[1]).name for name, arguments in calls if name == "log_artifact"]
    assert sent == ["val_epoch_001.jpg", "report.html", "curves.png", "summary.md", "config.yaml"]


def test_tensorboard_gets_images_and_text(folder, monkeypatch, capsys):
    logger, calls = stand_in(monkeypatch, "TensorBoardLogger")
    finish(folder, logger)
    assert not capsys.readouterr().err
    images = [(arguments[0], arguments[2]) for name, arguments in calls if name == "add_image"]
    assert images == [("val_predictions", 4), ("curves", 4)]
    assert [arguments[0] for name, arguments in calls if name == "add_text"] == ["config", "report", "summary"]


def test_a_tracker_that_fails_costs_a_line_and_not_the_run(folder, monkeypatch, capsys):
    logger, _ = stand_in(monkeypatch, "MLFlowLogger")

    def fail(*_):
        raise ConnectionError("no server\nmore")

    monkeypatch.setattr(type(logger), "log_hyperparams", fail)
    finish(folder, logger)
    assert capsys.readouterr().err == "warning: Logger did not get the settings: no server\n"


def test_other_loggers_are_left_alone(folder, capsys):
    finish(folder, object())
    assert not capsys.readouterr().err


def test_events_of_tensorboard_can_be_read_back(folder, capsys):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = make(["tensorboard"], folder, "project", {})
    logger.log_metrics({"train/loss": 0.5, "val/AP": 0.25}, 4)
    finish(folder, logger)
    assert "warning: TensorBoard" not in capsys.readouterr().err
    logger.finalize("success")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.value for event in events.Scalars("val/AP")] == [0.25]
    assert set(events.Tags()["images"]) == {"val_predictions", "curves"}
    assert {"config/text_summary", "summary/text_summary", "report/text_summary"} <= set(events.Tags()["tensors"])
    assert not (folder / "hparams.yaml").exists()


def test_mlflow_has_curves_settings_and_files(folder, tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (logger,) = make(["mlflow"], folder, "project", {})
    logger.log_metrics({"val/AP": 0.25}, 4)
    finish(folder, logger)
    assert "warning: MLFlowLogger" not in capsys.readouterr().err
    client, run_id = logger.experiment, logger.run_id
    run = client.get_run(run_id)
    assert run.data.metrics["val/AP"] == 0.25
    assert run.data.params["model/fpn/channels"] == "16"
    assert {"report.html", "images", "config.yaml"} <= {one.path for one in client.list_artifacts(run_id)}
    (again,) = make(["mlflow"], folder, "project", trackers.ids([logger]))
    assert again.run_id == run_id


@pytest.mark.slow
def test_weights_and_biases_keeps_an_offline_run(folder, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (logger,) = make(["wandb"], folder, "project", {"wandb": "known"})
    logger.log_metrics({"val/AP": 0.25}, 4)
    finish(folder, logger)
    assert "warning: WandbLogger" not in capsys.readouterr().err
    (offline,) = (folder / "wandb").glob("offline-run-*-known")
    media = [path.name for path in (offline / "files/media").rglob("*") if path.is_file()]
    assert any(name.startswith("val_predictions") for name in media)
    assert any(name.startswith("report") and name.endswith(".html") for name in media)
    assert trackers.ids([logger]) == {"wandb": "known"}


def test_the_ids_of_a_run_are_found_for_its_next_start(folder, monkeypatch):
    from detection.engine.folder import loggers

    (folder / "run.json").write_text(json.dumps({"starts": [{"trackers": {"mlflow": "7"}}]}))
    given = []
    monkeypatch.setattr("detection.engine.folder.make", lambda *arguments: given.append(arguments) or [])
    loggers(None, str(folder), ["mlflow"], "project")
    assert given == [(["mlflow"], folder, "project", {"mlflow": "7"})]
