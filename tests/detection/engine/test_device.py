"""A whole run on a device gives the same weights as on a CPU, and synchronises only where expected."""

import math
import zlib

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from detection.engine import command
from detection.engine.module import DetectionModule
from detection.run_files import evaluations
from tests.support.pretended_device import PretendedDevice

ONCE = {"detection/models/anchors.py", "detection/fast/levels.py"}
"""Where numbers are brought to the device at the first sight of a shape."""
NMS = "detection/ops/nms.py"
HOOKS = ("on_train_batch_start", "on_train_epoch_end")


@pytest.fixture
def train(run, monkeypatch):
    """Train 12 steps on a device, or on the processor for None.

    What comes back are the weights at the end, the metrics, and the files that waited at each step.
    """

    def seed(self, key):  # the device has no generators
        torch.manual_seed(zlib.crc32(repr(key).encode()))

    def seeded(self, stage):  # settings are tried out on PyTorch's own device without numbers, and here they draw some
        torch.manual_seed(0)
        return setup(self, stage)

    setup, begin, end = (getattr(DetectionModule, name) for name in ("setup", *HOOKS))
    monkeypatch.setattr(DetectionModule, "_generator", seed)
    monkeypatch.setattr(DetectionModule, "setup", seeded)

    def call(device: PretendedDevice | None, *options: str):
        weights, waits, step = {}, {}, None

        def sort():
            if device is not None:
                if step is not None:
                    waits[step] = {line.partition(":")[0] for line in device.waits} - {NMS, *ONCE}
                device.waits.clear()

        def started(self, batch, batch_idx):
            nonlocal step
            sort()
            step = self.trainer.global_step
            return begin(self, batch, batch_idx)

        def ended(self):
            nonlocal step
            sort()
            step = None
            weights.update(PretendedDevice.get(dict(self.model.named_parameters())))
            return end(self)

        for name, hook in zip(HOOKS, (started, ended), strict=True):
            monkeypatch.setattr(DetectionModule, name, hook)
        once = ("--trainer.check_val_every_n_epoch", "3", "--trainer.enable_checkpointing", "false")
        steps = ("--model.schedule.length", "3", "--trainer.log_every_n_steps", "4")
        folder = "processor" if device is None else "device"
        options = (*steps, *once, "--run.pictures", "0", "--run.folder", folder, *options)
        if device is None:
            assert run("fit", *options) == 0
        else:
            there = torch.device("meta")
            strategy = SingleDeviceStrategy(there)
            with monkeypatch.context() as patch, device:
                patch.setattr(SingleDeviceStrategy, "root_device", there)
                patch.setattr(CPUAccelerator, "setup_device", lambda self, device: None)
                patch.setattr(command, "strategy_of", lambda name: strategy)
                assert run("fit", *options) == 0
        (metrics,) = evaluations(folder)
        return weights, {name: value for name, value in metrics.items() if not math.isnan(value)}, waits

    return call


@pytest.mark.slow
def test_a_run_on_a_device_is_that_on_the_cpu_and_waits_at_log_steps_alone(train):
    options = ("--trainer.gradient_clip_val", "1", "--run.average", "{kind: ema}", "--model.optimizer.name", "adamw")
    weights, metrics, _ = train(None, *options)
    found, found_metrics, waits = train(PretendedDevice(), *options)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert found_metrics == pytest.approx(metrics, rel=1e-4)
    assert metrics["val/loss"] > 0
    assert [step for step, by in waits.items() if by] == [0, 3, 7, 11]  # a run begins with a line of its losses
