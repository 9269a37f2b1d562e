"""Training of a classifier in two processes: the same as in one, and the same after a stop."""

import csv
import json

import pytest
import torch
import yaml

from tests.end_to_end.test_processes import (
    AGENT,
    last,
    test_two_ranks_stopped_and_resumed_equal_two_that_were_not,
    torchrun,
    whole,
)
from tests.support.labelled import write_digits

__all__ = ["test_two_ranks_stopped_and_resumed_equal_two_that_were_not", "whole"]  # run here with this config
pytestmark = pytest.mark.slow

MIXED = {"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0}
"""Loss that draws random numbers for each rank."""


def write_config(folder, **changes):
    """Write 26 images of two digits, of which each epoch trains on three steps of 6 and validates on six."""
    root = write_digits(folder / "digits", 13, classes=2)
    settings = {
        "model": {
            "classifier": {"name": "resnet10", "width": 8, **changes.get("classifier", {})},
            "loss": changes.get("loss", MIXED),
            "schedule": {"kind": "cosine", "unit": "epochs", "length": 2, "warmup": 0, "reference_batch": 6},
            "optimizer": {"lr": 0.05},
        },
        "data": {
            "root": str(root),
            "train": {"images": "."},
            "val": None,
            "val_fraction": 0.23,
            "size": 32,
            "resize": 36,
            "batch_size": 6,
            "eval_batch_size": 4,
            "workers": 0,
        },
        "trainer": {"accelerator": "cpu", "precision": "32-true", "log_every_n_steps": 1, "num_sanity_val_steps": 0},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    (folder / "agent.py").write_text(AGENT)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("processes"))


def test_two_ranks_train_as_one(tmp_path):
    """Without statistics over a batch, and without numbers that a rank draws for itself, all is equal but for rounding.

    Group norm would not do: at the end of so small a network, its groups have two numbers, and rounding flips signs.
    """
    config = write_config(tmp_path, classifier={"norm": "frozen"}, loss={"label_smoothing": 0.1})
    folders = [tmp_path / f"{ranks}" for ranks in (1, 2)]
    for ranks, folder in zip((1, 2), folders, strict=True):
        torchrun(config, ranks, "--run.folder", folder)
    one, two = (last(folder) for folder in folders)
    assert one["global_step"] == two["global_step"] == 6
    torchrun(config, 1, "--run.folder", tmp_path / "start", "--trainer.max_steps", 1, "--model.optimizer.lr", 0)
    start = last(tmp_path / "start")["state_dict"]
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, atol=1e-5, rtol=1e-4)
    moved = sum(float((value - start[name]).abs().sum()) for name, value in one["state_dict"].items())
    assert moved > 1  # so that equal weights prove something
    rows = [list(csv.DictReader((folder / "val.csv").read_text().splitlines())) for folder in folders]
    for row, other in zip(*rows, strict=True):
        assert float(row["val/loss"]) == pytest.approx(float(other["val/loss"]), abs=1e-4)
        assert row["val/top1"] == other["val/top1"]


def test_two_ranks_validate_as_one(config, whole, tmp_path):
    found = []
    for ranks in (1, 2):
        options = ("--ckpt_path", whole / "checkpoints" / "last.ckpt", "--run.folder", tmp_path / f"{ranks}")
        torchrun(config, ranks, *options, subcommand="validate")
        found.append(json.loads((tmp_path / f"{ranks}" / "classes_val.json").read_text()))
    assert found[0]["images"] == found[1]["images"] == 6
    assert found[0]["confusion"] == found[1]["confusion"]
    assert found[0]["metrics"] == pytest.approx(found[1]["metrics"], abs=1e-6)
