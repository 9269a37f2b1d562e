"""Steps that are not finite, left out or not."""

import json

import cv2
import pytest
import torch

from detection.engine.module import DetectionModule


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


def test_a_few_steps_are_left_out_and_written_down(run, tmp_path, break_steps, capsys):
    break_steps(1, 2)
    assert run("fit", "--run.folder", "out", "--run.skip_nonfinite", "2") == 0
    state = torch.load(tmp_path / "out/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert "left out (2 of at most 2)" in capsys.readouterr().out
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
    assert "after 2 such steps were left out" in message


def test_what_stops_the_run_is_written_down_too(run, tmp_path, break_steps, capsys):
    break_steps(1)
    assert run("fit", "--run.folder", "out") == 1
    (written,) = (tmp_path / "out/nonfinite").glob("*.json")
    content = json.loads(written.read_text())
    assert f"step {content['step']}: loss_cls nan" in capsys.readouterr().err
    assert len(content["image_ids"]) == 2
    assert content["gradient_norms"]["gradient of backbone"] != content["gradient_norms"]["gradient of backbone"]
    assert written.with_suffix(".jpg").is_file()
