"""The end of a run: its files, and no failure of a file stops the run."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from detection.engine import closing
from detection.engine.closing import Closing, export
from detection.engine.errors import InputError, StoppedError
from detection.engine.run_record import RunRecord, starts
from detection.engine.summary import next_commands

DATA = {"annotations": "a.json", "images": 1, "objects": 1, "classes": 1}
START = {"command": "rcnn train", "devices": {"count": 1, "name": "CPU", "type": "cpu", "precision": "32-true"}}
PLACE = {"epoch": 1, "step": 4}


class Trackers:
    def __init__(self):
        self.finished = []

    def finish(self, trainer, failed):
        self.finished.append(failed)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A closing of a run in ``tmp_path/run``, and what it printed; ``write`` writes its report."""
    monkeypatch.setattr(closing, "export", lambda folder, path, module: path.touch())
    monkeypatch.setattr(closing, "read_run", lambda folder: {})
    monkeypatch.setattr(closing, "plot", lambda runs, path: path.touch())
    folder, printed, barriers = tmp_path / "run", [], []
    record, detections = RunRecord(), SimpleNamespace(place=PLACE, count=10)
    record._folder = folder
    record._write([START | {"data": {"train": DATA}, "result": "running"}])
    best = SimpleNamespace(found={**PLACE, "score": 0.5, "AP": {"box": 0.5}})
    made = Closing(best, record, Trackers(), detections, lambda path, *_: path.write_text("new"))
    made._folder, made._model = folder, "MaskRCNN"
    strategy = SimpleNamespace(barrier=lambda: barriers.append(1))
    trainer = SimpleNamespace(current_epoch=2, global_step=8, strategy=strategy)
    module = SimpleNamespace(print=printed.append, next_commands=next_commands)
    return SimpleNamespace(
        closing=made, trainer=trainer, module=module, folder=folder, printed=printed, barriers=barriers
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_run_has_its_files_and_ends_with_the_next_commands(run):
    run.closing.on_fit_end(run.trainer, run.module)
    assert names(run.folder) == {"run.json", "summary.md", "report.html", "curves.png", "model.safetensors"}
    found = json.loads((run.folder / "run.json").read_text())
    assert (found["result"], found["reason"], found["last"]) == ("finished", None, {"epoch": 2, "step": 8})
    assert found["best"]["AP"] == {"box": 0.5}
    (lines,) = run.printed
    assert lines.startswith("Training finished\n  Best:     epoch 1 (step 4): box AP 50.0")
    assert run.closing._trackers.finished == [False]
    assert run.barriers


@pytest.mark.parametrize(
    ("error", "result"), [(StoppedError(15, "after step 8"), "interrupted"), (InputError("x"), "failed")]
)
def test_a_run_that_does_not_finish_says_why(run, error, result):
    run.closing.on_exception(run.trainer, run.module, error)
    (start,) = starts(run.folder)
    assert (start["result"], start["reason"]) == (result, str(error))
    assert ("report.html" in names(run.folder)) == (result == "interrupted")
    assert bool(run.barriers) == (result == "interrupted")  # of other errors, other ranks may know nothing
    assert run.closing._trackers.finished == [result == "failed"]


def test_what_cannot_be_written_costs_a_line(run, monkeypatch, capsys):
    def fail(*_):
        raise OSError("no space left\nmore")

    monkeypatch.setattr(closing, "plot", fail)
    run.closing.on_fit_end(run.trainer, run.module)
    assert capsys.readouterr().err == f"warning: {run.folder / 'curves.png'} was not written: no space left\n"
    assert "report.html" in names(run.folder)
    assert run.printed[-1].startswith("Training finished")


def test_the_report_of_a_better_evaluation_stays(run):
    (run.folder / "report.html").write_text("better")
    run.closing._best.found["step"] = 2
    run.closing.on_fit_end(run.trainer, run.module)
    assert (run.folder / "report.html").read_text() == "better"
    (run.folder / "report.html").unlink()
    run.closing.on_fit_end(run.trainer, run.module)
    assert (run.folder / "report.html").read_text() == "new"


def test_a_large_report_does_not_keep_a_stopped_run(run, monkeypatch):
    run.closing._detections.count = closing.QUICK + 1
    run.closing.on_exception(run.trainer, run.module, StoppedError(15, "after step 8"))
    assert "report.html" not in names(run.folder)
    assert any("as the run was stopped" in line for line in run.printed)


def test_a_start_without_an_end_was_killed(run):
    run.closing.on_fit_start(SimpleNamespace(log_dir=None), run.module)  # nothing to write
    assert starts(run.folder)[0]["result"] == "running"
    assert starts(run.folder / "none") == []


def test_the_weights_are_not_written_again_where_no_checkpoint_is_newer(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(closing, "load_pretrained", lambda path, trust: SimpleNamespace(build=lambda: path))
    monkeypatch.setattr(closing, "save_safetensors", lambda model, path: saved.append(Path(model).name))
    module = SimpleNamespace(configs={"backbone": SimpleNamespace(name="resnet10")})
    model, folder = tmp_path / "model.safetensors", tmp_path / "checkpoints"
    export(tmp_path, model, module)
    assert saved == []
    folder.mkdir()
    (folder / "last.ckpt").touch()
    export(tmp_path, model, module)
    (folder / "best.ckpt").touch()
    export(tmp_path, model, module)
    assert saved == ["last.ckpt", "best.ckpt"]
    model.touch()
    os.utime(folder / "best.ckpt", (1, 1))
    export(tmp_path, model, module)
    assert len(saved) == 2
