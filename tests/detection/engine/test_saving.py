"""What a resumed run knows of what was saved before: scores, files, early stopping, lines of evaluations."""

import json

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from detection.engine.callbacks import LastCheckpoint, MetricsFile, StopEarly
from detection.engine.run import RunConfig, callbacks
from detection.engine.saving import BestCheckpoint, known_here, restore_lines
from detection.evaluation.coco import CocoEvaluator

OPTIONS = ("--run.pictures", "0", "--model.mask_head", "null")


@pytest.fixture
def scores(monkeypatch):
    """Decide what AP the evaluations give, one after another; the last one again and again."""
    evaluate = CocoEvaluator.evaluate

    def give(*values):
        left = list(values)

        def decided(self):
            return evaluate(self) | {"bbox/AP": left.pop(0) if len(left) > 1 else left[0]}

        monkeypatch.setattr(CocoEvaluator, "evaluate", decided)

    return give


def best(folder):
    return torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("place", ["as before", "another path", "a new folder", "a folder with last.ckpt alone"])
def test_a_worse_checkpoint_never_replaces_the_best_one(run, tmp_path, scores, place):
    """In a run that goes on, wherever its folder is by then."""
    scores(0.5)
    assert run("fit", "--run.folder", "run", *OPTIONS, "--model.schedule.length", "1") == 0
    options, folder = ("--run.folder", "run", "--resume", "auto"), tmp_path / "run"
    if place == "another path":
        options, folder = ("--run.folder", "moved", "--resume", "auto"), (tmp_path / "run").rename(tmp_path / "moved")
    if place == "a new folder":
        options, folder = ("--run.folder", "new", "--resume", "run/checkpoints/last.ckpt"), tmp_path / "new"
    if place == "a folder with last.ckpt alone":
        (tmp_path / "run/checkpoints/best.ckpt").unlink()
    scores(0.25, 0.75, 0.625)
    assert run("fit", *options, *OPTIONS, "--model.schedule.length", "2") == 0
    assert best(folder) == (8 if "alone" in place else 4)  # a score whose file is gone is no reason to write none
    assert run("fit", *options[:2], "--resume", "auto", *OPTIONS, "--model.schedule.length", "3") == 0
    assert best(folder) == 12
    assert [line["val/AP"] for line in lines_of(folder)] == [0.5, 0.25, 0.75]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def state(mode="max", **scores):
    op = {"max": max, "min": min}[mode]
    paths = {f"/old/{name}.ckpt": torch.tensor(score) for name, score in scores.items()}
    top = op(paths, key=paths.get)
    return {
        "dirpath": "/old", "best_k_models": paths, "best_model_path": top, "best_model_score": paths[top],
        "kth_best_model_path": {"max": min, "min": max}[mode](paths, key=paths.get), "last_model_path": "",
        "kth_value": 0, "current_score": None, "monitor": "val/AP",
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "best", "worst"), [("max", "b", "c"), ("min", "c", "b")])
def test_scores_follow_their_files(mode, best, worst):
    found = known_here(state(mode, a=0.9 if mode == "max" else 0.0, b=0.5, c=0.1), "new", {"b.ckpt", "c.ckpt"}, mode)
    assert found["best_k_models"].keys() == {"new/b.ckpt", "new/c.ckpt"}
    assert (found["best_model_path"], found["kth_best_model_path"]) == (f"new/{best}.ckpt", f"new/{worst}.ckpt")
    assert found["dirpath"] == "new"


def test_a_score_without_a_file_is_forgotten():
    found = known_here(state(a=0.9), "new", set(), "max")
    assert (found["best_k_models"], found["best_model_path"], found["best_model_score"]) == ({}, "", None)


def test_a_checkpoint_of_lightnings_own_class_tells_the_best_score(run, tmp_path, scores):
    """As earlier versions wrote it."""
    scores(0.5)
    assert run("fit", "--run.folder", "run", *OPTIONS) == 0
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    ours = BestCheckpoint("val/AP")
    content["callbacks"][ours.older_key] = content["callbacks"].pop(ours.state_key)
    assert ours.older_key == ModelCheckpoint(monitor="val/AP", mode="max").state_key
    for key in ("MetricsFile", "evaluation_due"):
        content["callbacks"].pop(key, None)
        content.pop(key, None)
    torch.save(content, path)
    scores(0.25)
    assert run("fit", "--run.folder", "run", "--resume", "auto", *OPTIONS, "--model.schedule.length", "2") == 0
    assert best(tmp_path / "run") == 4
    assert [line["val/AP"] for line in lines_of(tmp_path / "run")] == [0.5, 0.25]


MINE = "{class_path: EarlyStopping, init_args: {monitor: val/AP, mode: max, patience: 2}}"


@pytest.mark.parametrize("options", [("--run.early_stopping", "2"), ("--trainer.callbacks", MINE)])
def test_early_stopping_counts_on_and_stays_stopped(run, tmp_path, scores, monkeypatch, capsys, options):
    """Ours and the user's; 0.5, then twice no better: the third epoch is the last, wherever the run was killed."""
    options = ("--run.folder", "run", "--resume", "auto", *OPTIONS, "--model.schedule.length", "9", *options)
    save = LastCheckpoint.on_validation_end

    def dies_at(step):
        def dying(self, trainer, module):
            save(self, trainer, module)
            if trainer.global_step == step:
                raise KeyboardInterrupt("killed")

        monkeypatch.setattr(LastCheckpoint, "on_validation_end", dying)

    for step, values in ((4, (0.5,)), (8, (0.4,)), (12, (0.3,))):
        scores(*values)
        dies_at(step)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            raise SystemExit(run("fit", *options))
    dies_at(None)
    capsys.readouterr()
    assert run("fit", *options) == 0
    assert "Stopped early before: val/AP was not better in 2 validations" in capsys.readouterr().out
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [4, 8, 12]


def test_a_longer_patience_lets_a_stopped_run_continue(run, tmp_path, scores):
    scores(0.5, 0.4)
    options = ("--run.folder", "run", "--resume", "auto", *OPTIONS, "--model.schedule.length", "9")
    assert run("fit", *options, "--run.early_stopping", "1") == 0
    assert run("fit", *options, "--run.early_stopping", "3") == 0
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [4, 8, 12, 16]


def test_early_stopping_counts_before_checkpoints_are_written():
    mine, theirs = EarlyStopping("val/AP"), EarlyStopping("train/loss")
    found = callbacks(RunConfig(early_stopping=2), [mine, theirs])
    ours = next(callback for callback in found if isinstance(callback, StopEarly))
    assert (mine._check_on_train_epoch_end, theirs._check_on_train_epoch_end) == (False, None)
    assert ours._check_on_train_epoch_end is False


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


FIRST, SECOND = {"epoch": 0, "step": 4, "val/AP": 0.1}, {"epoch": 1, "step": 8, "val/AP": 0.2}
VALIDATED, TESTED = {"epoch": 0, "step": 0, "val/AP": 0.1}, {"epoch": 0, "step": 0, "test/AP": 0.1}


def test_lines_after_the_checkpoint_are_taken_out_and_kept_aside(tmp_path):
    """Also one that was cut off; but not those of evaluations by themselves."""
    path = tmp_path / "metrics.json"
    write(path, FIRST, VALIDATED, TESTED, SECOND, '{"epoch": 1, "st')
    assert restore_lines(path, [FIRST]) == tmp_path / "metrics_0.json"
    assert lines_of(tmp_path) == [FIRST, VALIDATED, TESTED]
    assert (tmp_path / "metrics_0.json").read_text().endswith('"st')


def test_lines_that_the_folder_lacks_are_written(tmp_path):
    assert restore_lines(tmp_path / "new/metrics.json", [FIRST, SECOND]) is None
    assert lines_of(tmp_path / "new") == [FIRST, SECOND]
    write(tmp_path / "new/metrics.json", FIRST, TESTED)
    assert restore_lines(tmp_path / "new/metrics.json", [FIRST, SECOND]) is None
    assert lines_of(tmp_path / "new") == [FIRST, SECOND, TESTED]


def test_lines_that_are_as_they_should_be_are_left_alone(tmp_path):
    path = tmp_path / "metrics.json"
    write(path, FIRST, SECOND)
    before = path.stat()
    assert restore_lines(path, [FIRST, SECOND]) is None
    assert path.stat() == before


@pytest.mark.parametrize("lines", [None, {}, [1], [{"AP": torch.ones(2)}], [{1: 0.5}], [{"AP": "=1"}]])
def test_lines_out_of_a_checkpoint_are_checked(lines):
    with pytest.raises(ValueError, match="no list of names and numbers"):
        MetricsFile().load_state_dict({"lines": lines})
