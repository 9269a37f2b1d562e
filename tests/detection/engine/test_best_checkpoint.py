"""Scores and files of the best checkpoint in a resumed run."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from detection.engine.best_checkpoint import BestCheckpoint, known_here
from detection.run_files import evaluations

OPTIONS = ("--run.pictures", "0", "--model.mask_head", "null")


def best(folder):
    return torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["global_step"]


OTHERS = ("as before", "another path", "a folder with last.ckpt alone")


@pytest.mark.parametrize("place", ["a new folder", *(pytest.param(place, marks=pytest.mark.slow) for place in OTHERS)])
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
    return evaluations(folder)


def state(mode="max", **scores):
    op = {"max": max, "min": min}[mode]
    paths = {f"/old/{name}.ckpt": torch.tensor(score) for name, score in scores.items()}
    top = op(paths, key=paths.get)
    return {
        "dirpath": "/old", "best_k_models": paths, "best_model_path": top, "best_model_score": paths[top],
        "kth_best_model_path": {"max": min, "min": max}[mode](paths, key=paths.get), "last_model_path": "",
        "kth_value": 0, "current_score": None, "monitor": "val/AP",
    }  # fmt: skip


def test_lightning_forgets_scores_where_the_folder_has_another_path_and_never_loads_the_last():
    saved = state(a=0.9) | {"current_score": torch.tensor(0.4)}
    theirs, ours = ModelCheckpoint("new", monitor="val/AP", mode="max"), BestCheckpoint("val/AP")
    theirs.load_state_dict(saved)
    assert (theirs.best_k_models, theirs.best_model_score) == ({}, None)
    theirs.dirpath = ours.dirpath = "/old"
    for callback in (theirs, ours):
        callback.load_state_dict(saved)
    assert (theirs.current_score, ours.current_score) == (None, torch.tensor(0.4))


@pytest.mark.parametrize(("mode", "best", "worst"), [("max", "b", "c"), ("min", "c", "b")])
def test_scores_follow_their_files(mode, best, worst):
    found = known_here(state(mode, a=0.9 if mode == "max" else 0.0, b=0.5, c=0.1), "new", {"b.ckpt", "c.ckpt"}, mode)
    assert found["best_k_models"].keys() == {"new/b.ckpt", "new/c.ckpt"}
    assert (found["best_model_path"], found["kth_best_model_path"]) == (f"new/{best}.ckpt", f"new/{worst}.ckpt")
    assert found["dirpath"] == "new"


def test_a_score_without_a_file_is_forgotten():
    found = known_here(state(a=0.9), "new", set(), "max")
    assert (found["best_k_models"], found["best_model_path"], found["best_model_score"]) == ({}, "", None)


@pytest.mark.slow
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
