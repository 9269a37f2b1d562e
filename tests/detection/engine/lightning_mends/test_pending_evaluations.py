"""A resumed run repeats an evaluation before, in or after which the run was stopped, and counts it once."""

import os
import signal
from types import SimpleNamespace

import pytest

from detection.engine import trainer
from detection.engine.best_checkpoint import BestCheckpoint
from detection.engine.last_checkpoint import LastCheckpoint
from detection.engine.lightning_mends.pending_evaluations import ValidateAtEnd
from detection.engine.module import DetectionModule
from detection.run_files import evaluations
from tests.outcomes import content, different, outcome, vary_ap

OPTIONS = (
    "--model.schedule.length", "3", "--run.pictures", "0", "--run.early_stopping", "50", "--model.mask_head", "null",
)  # fmt: skip
"""Three epochs of four steps, with an evaluation after each."""


class KilledError(BaseException):
    """What no part of a run handles or cleans up after."""


@pytest.fixture(autouse=True)
def _changing_ap(monkeypatch):
    vary_ap(monkeypatch.setattr)


@pytest.fixture(scope="module")
def wholes():
    """Runs that were never stopped, by their options."""
    return {}


@pytest.fixture
def whole(run, tmp_path, wholes):
    """The checkpoints and the curve of a run that was never stopped."""

    def train(*options):
        if options not in wholes:
            assert run("fit", "--run.folder", "whole", *OPTIONS, *options) == 0
            wholes[options] = outcome(tmp_path / "whole")
        return wholes[options]

    return train


@pytest.mark.slow
def test_the_ap_of_these_tests_goes_up_and_down(whole):
    """Else no best checkpoint could be overwritten by a worse one."""
    first, second, third = (line["val/AP"] for line in whole()["curve"])
    assert first < second > third


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 7, 11])
def test_a_signal_in_the_last_step_of_an_epoch_loses_no_evaluation(run, interrupted, whole, tmp_path, capsys, at):
    assert interrupted(signal.SIGTERM, at, "--run.folder", "parts", *OPTIONS) == 143
    assert content(tmp_path / "parts")["evaluation_due"]
    capsys.readouterr()
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *OPTIONS) == 0
    assert f"did not finish its evaluation after step {at + 1}: it runs now" in capsys.readouterr().out
    assert different(outcome(tmp_path / "parts"), whole()) == []


@pytest.mark.slow
def test_lightning_alone_skips_that_evaluation(run, interrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "run_pending_evaluation", lambda trainer: None)
    assert interrupted(signal.SIGTERM, 3, "--run.folder", "parts", *OPTIONS) == 143
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *OPTIONS) == 0
    assert [line["step"] for line in outcome(tmp_path / "parts")["curve"]] == [8, 12]


@pytest.mark.slow
def test_a_signal_in_another_step_leaves_no_evaluation_to_make_up(run, interrupted, whole, tmp_path, capsys):
    assert interrupted(signal.SIGTERM, 5, "--run.folder", "parts", *OPTIONS) == 143
    assert not content(tmp_path / "parts")["evaluation_due"]
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *OPTIONS) == 0
    assert "did not finish its evaluation" not in capsys.readouterr().out
    assert different(outcome(tmp_path / "parts"), whole()) == []


@pytest.mark.slow
def test_the_last_evaluation_of_a_run_that_is_counted_in_steps_is_made_up(run, interrupted, whole, tmp_path):
    """Lightning itself ends such a run at once: its steps are done."""
    steps = ("--trainer.max_steps", "6")
    assert interrupted(signal.SIGTERM, 5, "--run.folder", "parts", *OPTIONS, *steps) == 143
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *OPTIONS, *steps) == 0
    assert different(outcome(tmp_path / "parts"), whole(*steps)) == []


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (3, 5))])
def test_evaluations_within_an_epoch_are_made_up(run, interrupted, whole, tmp_path, at):
    often = ("--trainer.val_check_interval", "2")
    assert interrupted(signal.SIGTERM, at, "--run.folder", "parts", *OPTIONS, *often) == 143
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *OPTIONS, *often) == 0
    found = outcome(tmp_path / "parts")
    assert len(found["curve"]) == 6
    assert different(found, whole(*often)) == []


def killed(monkeypatch, run, owner, name, nth, *options, after=False):
    """Run until the ``nth`` call of a function, and no further; nothing gets the chance to clean up."""
    function, calls = getattr(owner, name), []

    def until(*arguments, **named):
        calls.append(name)
        if len(calls) < nth:
            return function(*arguments, **named)
        if after:
            function(*arguments, **named)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, until)
        with pytest.raises(KilledError):
            run("fit", *options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (DetectionModule, "on_validation_epoch_start", False),
        pytest.param(DetectionModule, "on_validation_epoch_end", True, marks=pytest.mark.slow),
        pytest.param(BestCheckpoint, "on_validation_end", False, marks=pytest.mark.slow),
        pytest.param(LastCheckpoint, "on_validation_end", False, marks=pytest.mark.slow),  # between the two checkpoints
        pytest.param(LastCheckpoint, "on_validation_end", True, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_dies_around_an_evaluation_ends_as_one_that_was_left_alone(
    run, whole, tmp_path, monkeypatch, owner, name, after
):
    """With last.ckpt written at every step, so that it is as before the evaluation."""
    options = ("--run.folder", "parts", *OPTIONS, "--run.save_minutes", "0")
    killed(monkeypatch, run, owner, name, 2, *options, after=after)
    assert run("fit", "--resume", "auto", *options) == 0
    assert different(outcome(tmp_path / "parts"), whole()) == []


@pytest.mark.slow
def test_a_run_with_its_best_checkpoint_alone_does_not_repeat_that_evaluation(run, whole, tmp_path, monkeypatch):
    options = ("--run.folder", "parts", *OPTIONS)
    killed(monkeypatch, run, LastCheckpoint, "on_validation_end", 1, *options)
    (tmp_path / "parts/checkpoints/last.ckpt").unlink()
    assert run("fit", "--resume", "auto", *options) == 0
    assert different(outcome(tmp_path / "parts"), whole()) == []


@pytest.mark.slow
def test_a_signal_in_an_evaluation_that_is_made_up_leaves_it_due(run, interrupted, whole, tmp_path, monkeypatch):
    options = ("--run.folder", "parts", *OPTIONS)
    before = signal.getsignal(signal.SIGTERM)
    assert interrupted(signal.SIGTERM, 11, *options) == 143
    evaluate = DetectionModule.validation_step

    def signalled(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionModule, "validation_step", signalled)
        assert run("fit", *options, "--resume", "auto") == 143
    assert content(tmp_path / "parts")["evaluation_due"]
    assert run("fit", *options, "--resume", "auto") == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert different(outcome(tmp_path / "parts"), whole()) == []


@pytest.mark.slow
def test_a_run_without_evaluations_makes_up_none(run, interrupted, tmp_path):
    assert interrupted(signal.SIGTERM, 7, "--run.folder", "parts", *OPTIONS) == 143
    options = ("--trainer.limit_val_batches", "0", "--run.early_stopping", "null")
    assert run("fit", "--run.folder", "parts", "--resume", "auto", *OPTIONS, *options) == 0
    assert content(tmp_path / "parts")["global_step"] == 12
    assert len(evaluations(tmp_path / "parts")) == 1


@pytest.mark.parametrize(("max_steps", "stops"), [(-1, False), (7, True), (8, False), (6, True)])
def test_the_last_step_asks_for_a_validation(max_steps, stops):
    trainer = SimpleNamespace(global_step=7, should_stop=False, max_steps=max_steps)
    ValidateAtEnd().on_train_batch_end(trainer, None, None, None, 0)
    assert trainer.should_stop is stops
