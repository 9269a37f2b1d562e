"""The position of a run that resumes with other settings."""

import signal

import pytest
import torch

from detection.engine import resuming
from detection.engine.module import DetectionModule
from detection.run_files import evaluations, read_table


def seen(folder):
    """(epoch, step) of each training step in the log."""
    return [(int(row["epoch"]) - 1, int(row["step"]) - 1) for row in read_table(folder / "train.csv")]


@pytest.mark.slow
def test_a_run_that_validated_goes_on_without_validation(run, tmp_path):
    """The epoch that ended with a validation is over: four more steps for eight images, and none twice."""
    assert run("fit", "--run.folder", "first") == 0
    checkpoint = ("--ckpt_path", str(tmp_path / "first/checkpoints/last.ckpt"))
    longer = ("--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0.0")
    assert run("fit", *checkpoint, *longer, "--run.folder", "second") == 0
    assert seen(tmp_path / "second") == [(1, 4), (1, 5), (1, 6), (1, 7)]
    last = torch.load(tmp_path / "second/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert run("fit", *checkpoint, "--trainer.max_epochs", "2", "--run.folder", "third") == 0
    other = torch.load(tmp_path / "third/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(last["state_dict"][name], other["state_dict"][name]) for name in last["state_dict"])


@pytest.mark.slow
def test_a_run_that_is_over_goes_on_with_the_next_epoch(run, tmp_path):
    """Without validation the last checkpoint is that of the end; also where epochs are cut short."""
    for limit, steps in (("1.0", 4), ("3", 3)):
        options = ("--trainer.limit_val_batches", "0.0", "--trainer.limit_train_batches", limit)
        whole, first, second = (f"{name}{steps}" for name in ("whole", "first", "second"))
        assert run("fit", *options, "--trainer.max_epochs", "2", "--run.folder", whole) == 0
        assert run("fit", *options, "--trainer.max_epochs", "1", "--run.folder", first) == 0
        checkpoint = ("--ckpt_path", str(tmp_path / first / "checkpoints/last.ckpt"))
        assert run("fit", *checkpoint, *options, "--trainer.max_epochs", "2", "--run.folder", second) == 0
        assert seen(tmp_path / second) == [(1, step) for step in range(steps, 2 * steps)]
        whole, second = (
            torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in (whole, second)
        )
        assert whole["global_step"] == second["global_step"] == 2 * steps
        assert all(torch.equal(whole["state_dict"][name], second["state_dict"][name]) for name in whole["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "seen", "after", "steps"),
    [
        (1, 3, 2, [(0, 2), (0, 3)]),  # of the five images that are left, four
        pytest.param(2, 1, 1, [(0, number) for number in range(2, 8)], marks=pytest.mark.slow),
        pytest.param(1, 1, 4, [(0, 1)], marks=pytest.mark.slow),
        pytest.param(2, 3, 4, [], marks=pytest.mark.slow),  # two are left, which fill no step: the epoch is over
    ],
)
def test_an_epoch_that_continues_with_another_batch_ends_with_its_evaluation(
    run, interrupted, tmp_path, monkeypatch, before, seen, after, steps
):
    """Eight images; the run is stopped after ``seen`` steps of ``before`` images, and continues with ``after``."""
    found = []
    step = DetectionModule.training_step

    def spy(self, batch, batch_idx):
        found.append((self.trainer.current_epoch, batch_idx, batch.image_ids.tolist()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionModule, "training_step", spy)
    options = (
        "--model.schedule.length",
        "2",
        "--run.folder",
        "run",
        "--model.mask_head",
        "null",
        "--run.pictures",
        "0",
    )
    assert interrupted(signal.SIGTERM, seen - 1, *options, "--data.batch_size", str(before)) == 143
    assert run("fit", *options, "--resume", "auto", "--data.batch_size", str(after)) == 0
    assert [place[:2] for place in found[seen:]] == steps + [(1, number) for number in range(8 // after)]
    for epoch in (0, 1):
        images = [image for place in found if place[0] == epoch for image in place[2]]
        assert len(images) == len(set(images))
    lines = evaluations(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 2]
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert lines[1]["step"] == last["global_step"] == lines[0]["step"] + 8 // after


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [False, True])
def test_lightning_alone_begins_an_epoch_again_that_was_stopped_in_its_middle(
    run, interrupted, tmp_path, monkeypatch, corrected
):
    """In a run that was resumed from the last batch of the epoch before."""
    if not corrected:
        monkeypatch.setattr(resuming, "correct_counters", lambda checkpoint, is_over: None)
    options = ("--run.folder", "out", "--trainer.limit_val_batches", "0.0", "--run.pictures", "0")
    assert interrupted(signal.SIGTERM, 3, *options) == 143
    assert interrupted(signal.SIGTERM, 5, *options, "--resume", "auto") == 143
    resumed = ("--resume", "auto", "--model.schedule.length", "2")
    assert run("fit", *options, *resumed) == 0
    rows = seen(tmp_path / "out")  # of all three starts
    assert (rows == sorted(set(rows))) is corrected
    assert ([row for row in rows if row[1] > 5] == [(1, 6), (1, 7)]) is corrected


@pytest.mark.slow
def test_lightning_alone_trains_a_batch_too_many_where_a_validation_is_left_out(run, tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "count_validation", lambda checkpoint: None)
    options = ("--run.pictures", "0", "--model.mask_head", "null")
    assert run("fit", *options, "--run.folder", "first") == 0
    checkpoint = ("--ckpt_path", str(tmp_path / "first/checkpoints/last.ckpt"))
    longer = ("--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0.0")
    assert run("fit", *checkpoint, *longer, *options, "--run.folder", "second") == 0
    assert seen(tmp_path / "second") != [(1, 4), (1, 5), (1, 6), (1, 7)]
