"""A diverging loss is reported once, and ends the run if it remains high; normal runs print nothing."""

import json
import math

import pytest
import torch

from detection.engine.divergence import FIRST, STAYS, LossWatch
from detection.engine.module import DetectionModule


def verdicts(losses, watch=None):
    watch = watch or LossWatch()
    return [watch.observe(loss) for loss in losses]


def falling(steps, start=7.0):
    """A healthy training: from 7 to 2, with noise of a third."""
    return [2 + (start - 2) * math.exp(-i / 30) + math.sin(12.9898 * i) * 0.7 for i in range(steps)]


def test_a_healthy_training_is_left_alone():
    assert set(verdicts(falling(500))) == {"fine"}


def test_the_first_steps_raise_no_alarm_whatever_they_are():
    assert set(verdicts([1.0, 40.0, 3.0, 900.0, 2.0, 2.0, 5.0] + falling(300, start=2))) == {"fine"}


def test_rare_images_with_objects_raise_no_alarm():
    """Nine of ten batches are background alone and cost next to nothing: 4.0 is 400 times the median."""
    assert set(verdicts([0.01] * 30 + ([4.0] + [0.01] * 9) * 30)) == {"fine"}


def test_one_outlier_is_reported_once_and_does_not_end_the_run():
    losses = falling(400)
    losses[100] = losses[200] = 5e4
    found = verdicts(losses)
    assert [i for i, verdict in enumerate(found) if verdict != "fine"] == [100]
    assert found[100] == "report"


def test_a_loss_that_stays_high_ends_the_run():
    """Half of the last 50 losses and one more are too high: the median of 50 is their mean from the 26th on."""
    found = verdicts(falling(100) + [3e6] * 100)
    assert found.index("report") == 100
    # With 25 high and 25 low losses the median is (3e6 + 2) / 2, which is too high already.
    assert found.index("stop") == 100 + STAYS // 2 - 1


def test_a_loss_that_climbs_step_by_step_does_not_become_the_new_normal():
    found = verdicts(falling(100) + [2 * 1.3**i for i in range(100)])
    assert "report" in found
    assert "stop" in found


def test_a_run_that_diverges_in_its_first_steps_ends_too():
    found = verdicts([2.2, 2.0, 2.1, 2.3, 9.0, 400.0, 6e4] + [2.8e6] * 60)
    assert found.index("report") == FIRST
    assert found.index("stop") == STAYS - 1


def test_a_run_that_recovers_goes_on():
    assert "stop" not in verdicts(falling(100) + [1e3] * (STAYS // 2 - 2) + falling(200, start=2))


@pytest.mark.parametrize("at", [50, 105, 110])
def test_an_interrupted_watch_ends_as_the_uninterrupted_one(at):
    losses = falling(100) + [3e6] * 60
    first, second = LossWatch(), LossWatch()
    found = verdicts(losses[:at], first)
    second.load(json.loads(json.dumps(first.state())))
    assert found + verdicts(losses[at:], second) == verdicts(losses)


@pytest.fixture
def raise_losses(monkeypatch):
    """Multiply the losses that are logged, not those that are learnt from, from a step on."""

    def frm(first, last=10**9):
        step = DetectionModule.training_step

        def raised(self, batch, batch_idx):
            output = step(self, batch, batch_idx)
            if first <= self.trainer.global_step < last:
                output["terms"] = {name: value * 1e4 + 1e4 for name, value in output["terms"].items()}
            return output

        monkeypatch.setattr(DetectionModule, "training_step", raised)

    return frm


LONG = ("--model.schedule.length", "30", "--trainer.limit_val_batches", "0", "--run.pictures", "0")


def test_a_run_says_once_which_images_and_goes_on(run, tmp_path, raise_losses, capsys):
    raise_losses(40, 42)
    assert run("fit", "--run.folder", "out", *LONG, "--model.schedule.length", "12") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "times its running median" in line]
    assert len(lines) == 1
    assert lines[0].startswith("step 41: loss ")
    assert "on the images with id " in lines[0]
    assert "lower model.optimizer.lr" in lines[0]
    (written,) = (tmp_path / "out/diverged").glob("*.json")
    assert len(json.loads(written.read_text())["image_ids"]) == 2
    assert written.with_suffix(".jpg").is_file()
    state = torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["callbacks"]["WatchLoss"]
    assert state["steps"] == 48
    assert state["reported"]


@pytest.mark.slow
def test_a_run_that_stays_there_ends_with_one_line(run, tmp_path, raise_losses, capsys):
    raise_losses(40)
    assert run("fit", "--run.folder", "out", *LONG) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: step ")
    assert "Training diverged" in line
    assert len(line) < 400


def test_a_real_divergence_is_noticed(run, capsys):
    """Not clipped, at ten thousand times its rate: NaN or a loss that stays high, and exit code 1."""
    options = ("--model.optimizer.lr", "30", "--trainer.gradient_clip_val", "null", "--model.schedule.warmup", "0")
    assert run("fit", *LONG, *options) == 1
    assert "lower model.optimizer.lr" in capsys.readouterr().err
