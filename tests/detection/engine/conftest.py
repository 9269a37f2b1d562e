"""A data set of a few drawn images, and a detector that trains on it in seconds."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from detection.engine.module import DetectionModule
from detection.evaluation.coco import CocoEvaluator
from detection.shapes import write_shapes

TINY = {
    "model": {
        "backbone": {"name": "resnet10", "norm": "group", "width": 8},
        "fpn": {"channels": 16},
        "rpn": {
            "anchors": {"sizes": [8, 16, 32, 64, 128]},
            "samples": 64,
            "pre_nms_train": 100,
            "pre_nms_test": 100,
            "proposals_train": 40,
            "proposals_test": 40,
        },
        "box_head": {"hidden": 32, "samples": 16, "detections": 10},
        "mask_head": {"convs": 1, "channels": 16},
        "schedule": {"unit": "epochs", "length": 1},
    },
    "data": {
        "train": {"images": "train", "annotations": "annotations/instances_train.json"},
        "val": {"images": "val", "annotations": "annotations/instances_val.json"},
        "short_side": 64,
        "long_side": 96,
        "batch_size": 2,
        "workers": 0,
    },
    "trainer": {"accelerator": "cpu", "precision": "32-true", "log_every_n_steps": 1, "num_sanity_val_steps": 0},
    "run": {"pictures": 2, "report": False},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """A whole training of tiny tensors: threads that wait for one another would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """8 images to train on, 4 to validate on; 5 classes."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), train=8, val=4, size=(64, 96))


@pytest.fixture(scope="session")
def tiny_config(shapes, tmp_path_factory) -> Path:
    """A config file for all of it."""
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | {"data": {"root": str(shapes), **TINY["data"]}}))
    return path


@pytest.fixture(scope="module")
def trained(_one_thread, tiny_config, tmp_path_factory):
    """The folder of a run that was trained for an epoch; only to be read."""
    from detection.cli import main

    folder = tmp_path_factory.mktemp("trained")
    root = str(folder)
    assert main(["--config", str(tiny_config), "--trainer.default_root_dir", root]) == 0  # fit goes without saying
    return folder / "tiny" / "version_0"


@pytest.fixture
def run(tiny_config, tmp_path, monkeypatch):
    """Call the command line in this process, in a folder of its own: run("fit", "--data.flip", "0") -> exit code."""
    from detection.cli import main

    monkeypatch.chdir(tmp_path)

    def call(subcommand: str, *options: str) -> int:
        return main([subcommand, "--config", str(tiny_config), *options])

    return call


@pytest.fixture
def interrupted(run, monkeypatch):
    """Train two epochs, signalling this process in the middle of a step; gives the exit code."""

    def train(number: int, at: int, *options: str) -> int:
        step = DetectionModule.training_step

        def spy(self, batch, batch_idx):
            if self.trainer.global_step == at:
                os.kill(os.getpid(), number)
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(DetectionModule, "training_step", spy)
            return run("fit", "--model.schedule.length", "2", *options)

    return train


@pytest.fixture
def scores(monkeypatch):
    """Decide what AP the evaluations give, one after another; the last one again and again."""
    evaluate = CocoEvaluator.evaluate

    def give(*values):
        left = list(values)

        def decided(self):
            return evaluate(self) | {"bbox/AP": left.pop(0) if len(left) > 1 else left[0]}

        monkeypatch.setattr(CocoEvaluator, "evaluate", decided)

    return give
