"""Early stopping: its reasons, and its count in a run that is resumed."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from detection.engine.early_stopping import StopEarly
from detection.engine.last_checkpoint import LastCheckpoint
from detection.engine.run import RunConfig, callbacks
from detection.run_files import evaluations

OPTIONS = ("--run.pictures", "0", "--model.mask_head", "null")


def lines_of(folder):
    return evaluations(folder)


def test_an_ap_that_is_no_number_is_no_reason_to_stop_and_stopping_is_told(caplog):
    stop = StopEarly("val/AP", patience=2)
    stops = [stop._evaluate_stopping_criteria(torch.tensor(ap))[0] for ap in (0.2, math.nan, math.nan, math.nan, 0.1)]
    assert stops == [False] * 5
    with caplog.at_level("INFO"):
        assert stop._evaluate_stopping_criteria(torch.tensor(0.2))[0]
    assert "Stopped early: val/AP has not been better in 2 validations" in caplog.text


def test_lightning_counts_an_ap_that_is_no_number_and_loads_the_patience_of_a_checkpoint():
    theirs = EarlyStopping("val/AP", patience=2, mode="max", check_finite=False)
    theirs._evaluate_stopping_criteria(torch.tensor(0.2))
    theirs._evaluate_stopping_criteria(torch.tensor(math.nan))
    assert theirs.wait_count == 1
    longer, ours = EarlyStopping("val/AP", patience=5), StopEarly("val/AP", patience=5)
    for callback in (longer, ours):
        callback.load_state_dict(theirs.state_dict())
    assert (longer.patience, ours.patience) == (2, 5)


MINE = "{class_path: EarlyStopping, init_args: {monitor: val/AP, mode: max, patience: 2}}"


@pytest.mark.slow
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


@pytest.mark.slow
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
