import json
import math
from types import SimpleNamespace

import pytest
import torch

from detection.engine import callbacks
from detection.engine.callbacks import (
    FirstStep,
    LastCheckpoint,
    MetricsFile,
    StopEarly,
    ValidateAtEnd,
)
from detection.engine.errors import InputError, NonFiniteError
from detection.engine.nonfinite import StopAtNonFinite
from detection.structures import IGNORE, Batch


def make_batch(*ids):
    images = torch.zeros(len(ids), 3, 32, 32, dtype=torch.uint8)
    sizes = torch.full((len(ids), 2), 32)
    return Batch(images, sizes, sizes, torch.tensor(ids))


def make_trainer(**values):
    defaults = {"global_step": 7, "log_every_n_steps": 3, "max_steps": -1, "should_stop": False, "current_epoch": 2}
    defaults["world_size"] = 1
    return SimpleNamespace(**{**defaults, **values})


def outputs(**terms):
    return {"terms": {name: torch.tensor(value) for name, value in terms.items()}}


def test_an_ap_that_is_no_number_is_no_reason_to_stop_and_stopping_is_told(caplog):
    stop = StopEarly("val/AP", patience=2)
    stops = [stop._evaluate_stopping_criteria(torch.tensor(ap))[0] for ap in (0.2, math.nan, math.nan, math.nan, 0.1)]
    assert stops == [False] * 5
    with caplog.at_level("INFO"):
        assert stop._evaluate_stopping_criteria(torch.tensor(0.2))[0]
    assert "Stopped early: val/AP has not been better in 2 validations" in caplog.text


CPU = SimpleNamespace(device=torch.device("cpu"), named_parameters=list)
GPU = SimpleNamespace(device=torch.device("cuda"), named_parameters=list)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_named_with_its_images(value):
    with pytest.raises(NonFiniteError) as error:
        StopAtNonFinite().on_train_batch_end(
            make_trainer(), CPU, outputs(loss_cls=0.5, loss_mask=value), make_batch(42, IGNORE, 7), 0
        )
    assert str(error.value).startswith(f"step 7: loss_mask {value} on the images with id 42, 7;")


def test_an_accelerator_is_asked_at_intervals_about_all_steps_since():
    callback = StopAtNonFinite()
    callback.on_train_batch_end(make_trainer(global_step=1), GPU, outputs(loss=0.5), make_batch(1), 0)
    callback.on_train_batch_end(make_trainer(global_step=2), GPU, outputs(loss=math.nan), make_batch(2), 1)
    with pytest.raises(NonFiniteError, match="step 2: loss nan on the images with id 2;"):
        callback.on_train_batch_end(make_trainer(global_step=3), GPU, outputs(loss=0.5), make_batch(3), 2)


@pytest.mark.parametrize(("max_steps", "stops"), [(-1, False), (7, True), (8, False), (6, True)])
def test_the_last_step_asks_for_a_validation(max_steps, stops):
    trainer = make_trainer(max_steps=max_steps)
    ValidateAtEnd().on_train_batch_end(trainer, CPU, None, None, 0)
    assert trainer.should_stop is stops


def test_memory_is_told_when_the_first_step_begins_and_once_when_it_is_over(monkeypatch):
    told: list[object] = []
    monkeypatch.setattr(callbacks, "begin_training", lambda: told.append("begins"))
    monkeypatch.setattr(callbacks, "go_on_training", told.append)
    for where in (CPU, GPU):
        callback = FirstStep(5e7)
        for batch in range(5):  # two of them are one step
            callback.on_train_batch_start(make_trainer(global_step=batch // 2), where, None, batch)
            callback.on_train_batch_end(make_trainer(global_step=(batch + 1) // 2), where, None, None, batch)
    assert told == ["begins", "begins", 5e7]


def test_metrics_file_has_a_line_per_evaluation(tmp_path):
    values = {
        "val/bbox/AP": torch.tensor(0.25),
        "val/bbox/APl": torch.tensor(math.nan),
        "train/loss": torch.tensor(1.0),
    }
    trainer = make_trainer(
        callback_metrics=values, log_dir=str(tmp_path / "run"), is_global_zero=True, sanity_checking=False
    )
    trainer.state = SimpleNamespace(fn="fit")
    MetricsFile().on_validation_end(trainer, CPU)
    trainer.sanity_checking = True
    MetricsFile().on_validation_end(trainer, CPU)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 2, "step": 7, "val/bbox/AP": 0.25, "val/bbox/APl": None}]


@pytest.mark.parametrize(("wait", "told"), [(0.5, True), (0.1, False)])
def test_waiting_for_images_is_logged_and_told(monkeypatch, wait, told):
    clock, logged, printed = [0.0], {}, []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock[0])
    trainer = SimpleNamespace(global_step=0, world_size=1, log_every_n_steps=1)
    module = SimpleNamespace(log=lambda name, value: logged.update({name: value}), print=printed.append)
    batch, throughput = SimpleNamespace(images=torch.zeros(2)), callbacks.Throughput()
    for _ in range(4):
        throughput.on_train_batch_start(trainer, module, batch, 0)
        clock[0] += 1 - wait
        throughput.on_train_batch_end(trainer, module, None, batch, 0)
        clock[0] += wait
    assert logged["train/data_wait"] == pytest.approx(wait)
    assert logged["train/images_per_second"] == pytest.approx(2)
    throughput.on_train_end(trainer, module)
    assert bool(printed) == told
    assert not told or "waited for images 50% of the time" in printed[0]


def test_ranks_that_would_begin_from_different_checkpoints_are_told():
    """As where a file has not reached all nodes of a cluster yet."""
    trainer = make_trainer(log_dir=None, is_global_zero=False, global_rank=3, ckpt_path=None)
    trainer.strategy = SimpleNamespace(broadcast=lambda _: "runs/a/checkpoints/last.ckpt")
    with pytest.raises(InputError, match=r"rank 3 would begin from None, the first rank from runs/a"):
        LastCheckpoint(30).setup(trainer, CPU, "fit")
    trainer.ckpt_path = "runs/a/checkpoints/last.ckpt"
    LastCheckpoint(30).setup(trainer, CPU, "fit")
