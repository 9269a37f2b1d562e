"""The search for a learning rate."""

import csv
import logging
import math

import pytest
import torch

from detection.engine import find_rate
from detection.engine.errors import InputError
from detection.engine.find_rate import SKIPPED, suggest, unbiased
from detection.engine.optim import OptimizerConfig


def curve(loss, count=100):
    rates = [1e-5 * 10 ** (5 * k / (count - 1)) for k in range(count)]
    return rates, [loss(math.log10(rate)) for rate in rates]


def test_the_loss_falls_fastest_where_a_slope_over_the_logarithm_is_steepest():
    # A step down at 1e-3, by a logistic curve over the logarithm; it rises after 1e-1.
    rates, losses = curve(lambda x: 2 - 1 / (1 + math.exp(-6 * (x + 3))) + max(0.0, x + 1) ** 2)
    found = suggest(rates, losses)
    assert math.log10(found.steepest) == pytest.approx(-3, abs=0.06)
    assert math.log10(found.lowest) == pytest.approx(-1, abs=0.3)


def test_a_slope_per_unit_of_the_rate_would_suggest_a_smaller_one():
    """Why the suggestion is not Lightning's."""
    from lightning.pytorch.tuner.lr_finder import _LRFinder

    rates, losses = curve(lambda x: 2 - 1 / (1 + math.exp(-3 * (x + 3))))
    theirs = _LRFinder("exponential", rates[0], rates[-1], len(rates))
    theirs.results = {"lr": rates, "loss": losses}
    assert theirs.suggestion() < suggest(rates, losses).steepest / 3


def test_infinite_losses_and_the_first_steps_do_not_count():
    rates, losses = curve(lambda x: 2 - 1 / (1 + math.exp(-6 * (x + 3))))
    expected = suggest(rates, losses)
    losses[:SKIPPED] = [100.0 * k for k in range(SKIPPED, 0, -1)]
    losses[95:] = [math.inf, math.nan, math.inf, math.nan, math.nan]
    assert suggest(rates, losses).steepest == expected.steepest


def test_the_moving_mean_of_a_constant_loss_is_that_loss():
    from types import SimpleNamespace

    from lightning.pytorch.tuner.lr_finder import _LRCallback

    callback = _LRCallback(5)
    strategy = SimpleNamespace(broadcast=bool)
    for step in range(1, 6):  # Lightning's own mean of five losses of 3
        loop = SimpleNamespace(batch_idx=step - 1)
        trainer = SimpleNamespace(
            global_step=step, fit_loop=loop, accumulate_grad_batches=1, strategy=strategy, should_stop=False
        )
        callback.on_train_batch_end(trainer, None, torch.tensor(3.0), None, 0)
    assert callback.losses[0] < 2
    assert unbiased(callback.losses) == pytest.approx([3.0] * 5)


@pytest.mark.parametrize("count", [0, SKIPPED + 2])
def test_too_few_losses_are_one_line(count):
    with pytest.raises(InputError, match=r"only . steps had a finite loss; reduce --lr"):
        suggest([0.1] * count, [1.0] * count)


@pytest.mark.slow
def test_a_search_writes_its_curve_and_trains_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(find_rate, "STEPS", 20)
    level = logging.getLogger("lightning.pytorch").level
    assert run("fit", "--run.folder", "out", "--run.find_lr", "true", "--run.average", "{decay: 0.9}") == 0
    assert logging.getLogger("lightning.pytorch").level == level
    printed = capsys.readouterr().out
    assert "Learning rate: the loss falls fastest at" in printed
    assert "for 2 images per step" in printed
    with (tmp_path / "out/find_lr.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["lr"]) for row in rows]
    given = OptimizerConfig().lr * 2 / 16
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(given * 1e-3, rel=0.1)
    assert len(rows) <= 20
    assert (tmp_path / "out/find_lr.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("config.yaml"))
    assert (
        run("fit", "--run.folder", "out", "--trainer.max_steps", "1", "--data.val", "null") == 0
    )  # a training after it


@pytest.mark.slow
def test_a_search_does_not_resume(run, trained, capsys):
    checkpoint = str(trained / "checkpoints" / "last.ckpt")
    assert run("fit", "--run.find_lr", "true", "--ckpt_path", checkpoint) == 2
    assert "leave --resume out" in capsys.readouterr().err
