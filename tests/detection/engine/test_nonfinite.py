"""Steps with NaN or Inf: skipped, or the end of the run."""

import json
import math
from types import SimpleNamespace

import cv2
import pytest
import torch

from detection.engine.errors import NonFiniteError
from detection.engine.module import DetectionModule
from detection.engine.nonfinite import StopAtNonFinite
from detection.structures import IGNORE, Batch


@pytest.fixture
def break_steps(monkeypatch):
    """Let the loss of some steps be NaN."""

    def at(*steps):
        step = DetectionModule.training_step

        def broken(self, batch, batch_idx):
            output = step(self, batch, batch_idx)
            if self.trainer.global_step in steps:
                output["loss"] = output["loss"] * float("nan")
                output["terms"]["loss_cls"] = output["terms"]["loss_cls"] * float("nan")
            return output

        monkeypatch.setattr(DetectionModule, "training_step", broken)

    return at


@pytest.mark.slow
def test_a_few_steps_are_left_out_and_written_down(run, tmp_path, break_steps, capsys):
    break_steps(1, 2)
    assert run("fit", "--run.folder", "out", "--run.skip_nonfinite", "2") == 0
    state = torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert "skipped (2 of at most 2)" in capsys.readouterr().out
    first, second = sorted((tmp_path / "out/nonfinite").glob("*.json"))
    assert (first.name, second.name) == ("step_2_rank_0.json", "step_3_rank_0.json")
    assert cv2.imread(str(first.with_suffix(".jpg"))).shape[2] == 3
    content = json.loads(first.read_text())
    assert len(content["image_ids"]) == 2
    assert content["terms"]["loss_cls"] != content["terms"]["loss_cls"]
    assert {"gradient of backbone", "gradient of mask_head"} <= set(content["gradient_norms"])


def test_a_step_that_is_left_out_changes_nothing(run, tmp_path, break_steps):
    break_steps(3)  # the last of an epoch
    assert run("fit", "--run.folder", "out", "--run.skip_nonfinite", "1") == 0
    assert run("fit", "--run.folder", "short", "--trainer.max_steps", "3", "--model.schedule.length", "1") == 0
    one, other = (
        torch.load(tmp_path / folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in ("out", "short")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_more_than_the_limit_stops_the_run(run, tmp_path, break_steps, capsys):
    break_steps(0, 1, 2)
    assert run("fit", "--run.folder", "out", "--run.skip_nonfinite", "2") == 1
    assert "loss_cls nan" in (message := capsys.readouterr().err)
    assert "after 2 such steps were skipped" in message


def test_what_stops_the_run_is_written_down_too(run, tmp_path, break_steps, capsys):
    break_steps(1)
    assert run("fit", "--run.folder", "out") == 1
    (written,) = (tmp_path / "out/nonfinite").glob("*.json")
    content = json.loads(written.read_text())
    assert f"step {content['step']}: loss_cls nan" in capsys.readouterr().err
    assert len(content["image_ids"]) == 2
    assert content["gradient_norms"]["gradient of backbone"] != content["gradient_norms"]["gradient of backbone"]
    assert written.with_suffix(".jpg").is_file()


def make_batch(*ids):
    images = torch.zeros(len(ids), 3, 32, 32, dtype=torch.uint8)
    sizes = torch.full((len(ids), 2), 32)
    return Batch(images, sizes, sizes, torch.tensor(ids))


def make_trainer(global_step=7):
    return SimpleNamespace(global_step=global_step, log_every_n_steps=3, world_size=1)


def outputs(**terms):
    return {"terms": {name: torch.tensor(value) for name, value in terms.items()}}


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
