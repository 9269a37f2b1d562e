"""When a run asks the device for numbers, seen on a device that has none: on a GPU each time is a wait."""

import traceback

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from detection.engine import command
from detection.engine.module import DetectionModule
from detection.models import rpn

ASKS = {"item", "tolist", "cpu", "numpy", "nonzero", "equal", "__bool__", "__float__", "__int__", "__index__"}


class Asked(torch.overrides.TorchFunctionMode):
    """Answers ones in the device's place, and notes the steps at which it was asked, and by whom."""

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None  # between them: the beginning and the end of the run
        self.by: dict[int, list[str]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        moves = name == "to" and torch.device("cpu") in (*args[1:], *(kwargs or {}).values())
        if not ((name in ASKS or moves) and isinstance(first, torch.Tensor) and first.is_meta):
            return func(*args, **(kwargs or {}))
        if self.step is not None:
            line = traceback.extract_stack()[-2]
            self.by.setdefault(self.step, []).append(f"{line.filename}:{line.lineno}")
        return func(torch.ones_like(first, device="cpu"), *args[1:], **(kwargs or {}))


@pytest.fixture
def asked(monkeypatch):
    mode = Asked()
    device = torch.device("meta")
    strategy = SingleDeviceStrategy(device)
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", device)
    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda self, device: None)
    monkeypatch.setattr(command, "chosen", lambda name: strategy)
    monkeypatch.setattr(DetectionModule, "_generator", lambda self, key: None)  # there is none for such a device
    monkeypatch.setattr(rpn, "nms", lambda boxes, scores, threshold: scores.isfinite())  # the one part that may wait
    begin, end = DetectionModule.on_train_batch_start, DetectionModule.on_train_epoch_end

    def started(self, batch, batch_idx):
        mode.step = self.trainer.global_step
        return begin(self, batch, batch_idx)

    def ended(self):
        mode.step = None
        return end(self)

    monkeypatch.setattr(DetectionModule, "on_train_batch_start", started)
    monkeypatch.setattr(DetectionModule, "on_train_epoch_end", ended)
    return mode


@pytest.mark.parametrize(
    "options",
    [
        ("--trainer.gradient_clip_val", "1"),
        ("--run.average", "{kind: ema}", "--model.optimizer.name", "adamw"),
    ],
)
def test_a_run_asks_the_device_at_the_first_step_and_at_log_steps_alone(asked, run, options):
    quiet = ("--trainer.limit_val_batches", "0", "--trainer.enable_checkpointing", "false", "--run.pictures", "0")
    with asked:
        code = run("fit", "--trainer.log_every_n_steps", "4", "--model.schedule.length", "3", *quiet, *options)
    assert code == 0
    assert sorted(asked.by) == [0, 3, 7, 11], asked.by  # a run begins with a line of its losses


def test_leaving_steps_out_asks_at_each(asked, run):
    """The cost of run.skip_nonfinite, and a proof that waits are seen."""
    quiet = ("--trainer.limit_val_batches", "0", "--trainer.enable_checkpointing", "false", "--run.pictures", "0")
    with asked:
        run("fit", "--trainer.log_every_n_steps", "4", "--run.skip_nonfinite", "1", *quiet)
    assert sorted(asked.by) == [0, 1, 2, 3], asked.by
