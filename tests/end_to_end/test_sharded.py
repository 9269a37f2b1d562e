"""``--trainer.strategy fsdp`` with two real ranks on a CPU, compared with DDP."""

import json

import pytest
import torch

from detection.checkpoint import load_model
from detection.run_files import read_table
from tests.end_to_end.test_processes import agent, config, last, same_weights, torchrun

__all__ = ["config"]  # the fixture
OPTIONS = ("--model.schedule.length", "4", "--trainer.limit_val_batches", "0", "--trainer.gradient_clip_val", "35")
STEPS = 12


@pytest.fixture(scope="module")
def whole(config):
    """Four epochs on two ranks, never stopped."""
    folder = config.parent / "whole"
    torchrun(config, 2, *OPTIONS, "--run.folder", folder, strategy="fsdp")
    return folder


def losses(folder):
    return [row["train/loss"] for row in read_table(folder / "train.csv")]


@pytest.mark.slow
def test_losses_weights_and_checkpoints_are_those_of_ddp(config, tmp_path):
    """Three steps, whose gradients are clipped: gathered weights lie otherwise in memory and round otherwise.

    After some steps more that puts a ReLU on the other side of zero, and single gradients differ in the fourth digit.
    """
    ours, theirs = tmp_path / "fsdp", tmp_path / "ddp"
    options = ("--model.schedule.length", "1", "--trainer.gradient_clip_val", "1")
    for strategy in ("fsdp", "ddp"):
        torchrun(config, 2, *options, "--run.folder", tmp_path / strategy, strategy=strategy)
    assert len(losses(ours)) == 3
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-6)
    ours, theirs = last(ours), last(theirs)
    assert list(ours) == list(theirs)
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    for name, value in theirs["state_dict"].items():
        assert type(ours["state_dict"][name]) is torch.Tensor
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=1e-5, atol=1e-6)
    ours, theirs = ours["optimizer_states"][0], theirs["optimizer_states"][0]
    kernels = {"foreach": None, "fused": None}
    assert [g | kernels for g in ours["param_groups"]] == [g | kernels for g in theirs["param_groups"]]
    for number, value in theirs["state"].items():
        momentum = value["momentum_buffer"]
        assert (ours["state"][number]["momentum_buffer"] - momentum).norm() <= 1e-4 * momentum.norm()


@pytest.mark.slow
def test_stopped_by_a_signal_and_resumed_equals_one_that_was_not(config, whole, tmp_path):
    folder = ("--run.folder", tmp_path / "run")
    stopped = torchrun(config, 2, *OPTIONS, *folder, *agent(rank=1, step=5, signal=15), strategy="fsdp", code=1)
    assert "exitcode  : 143" in stopped.output
    assert last(tmp_path / "run")["global_step"] == 10
    torchrun(config, 2, *OPTIONS, *folder, "--resume", "auto", strategy="fsdp")
    assert last(tmp_path / "run")["global_step"] == STEPS
    assert same_weights(whole, tmp_path / "run")


@pytest.mark.slow
def test_what_was_sharded_goes_on_without_and_is_evaluated_alike(config, whole, tmp_path):
    """One process goes on with it; two ranks with unequal numbers of images find what one finds."""
    load_model(whole / "checkpoints" / "last.ckpt")
    checkpoint = ("--ckpt_path", whole / "checkpoints" / "last.ckpt")
    test = ("--data.test", '{"images": "val", "annotations": "annotations/instances_val.json"}')
    found = []
    for ranks, strategy in ((1, "ddp"), (2, "fsdp")):
        folder = tmp_path / strategy
        options = (*checkpoint, *test, "--run.folder", folder, "--model.box_head.score_threshold", "0")
        torchrun(config, ranks, *options, subcommand="test", strategy=strategy)
        found.append(json.loads((folder / "results_bbox.json").read_text()))
    assert len(found[0]) == len(found[1]) > 20
    for one, two in zip(*found, strict=True):
        assert (one["image_id"], one["category_id"]) == (two["image_id"], two["category_id"])
        assert one["score"] == pytest.approx(two["score"], abs=1e-5)
        assert one["bbox"] == pytest.approx(two["bbox"], abs=1e-3)
    longer = ("--trainer.max_epochs", "5", "--trainer.limit_val_batches", "0", "--run.folder", tmp_path / "more")
    torchrun(config, 1, *checkpoint, *longer)
    assert last(tmp_path / "more")["global_step"] == 15


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_left_out_on_all_ranks(config, tmp_path):
    options = (*OPTIONS[2:], "--run.folder", tmp_path / "run", "--run.skip_nonfinite", "1")
    done = torchrun(config, 2, *options, *agent(rank=0, step=1, signal=0), strategy="fsdp")
    assert "skipped (1 of at most 1)" in done.output
    assert len(list((tmp_path / "run" / "nonfinite").glob("*.json"))) == 2  # each rank its images
    assert all(value.isfinite().all() for value in last(tmp_path / "run")["state_dict"].values())
