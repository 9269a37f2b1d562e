"""The end of one of several processes, as far as it is testable without NCCL."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from detection.engine import ending
from detection.engine.errors import InputError, StoppedError
from detection.engine.module import DetectionModule


class Ended(BaseException):
    """Instead of the process."""


@pytest.fixture
def ranks(monkeypatch):
    """Two ranks that NCCL would join; what is killed is noted."""

    def end(code: int):
        raise Ended(code)

    killed = []
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    launcher = SimpleNamespace(kill=killed.append)
    return SimpleNamespace(world_size=2, strategy=SimpleNamespace(launcher=launcher)), killed


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such file a.jpg"), 2, "error: no such file a.jpg\n"),
        (RuntimeError("CUDA error"), 1, "RuntimeError: CUDA error\n"),
    ],
)
def test_a_rank_that_fails_alone_tells_why_and_waits_for_nobody(ranks, capsys, error, code, line):
    trainer, killed = ranks
    with pytest.raises(Ended) as ended:
        ending.end_at_once(trainer, error)
    assert ended.value.args == (code,)
    assert killed == [signal.SIGKILL]
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.parametrize("why", ["agreed", "alone", "gloo", "no group"])
def test_others_end_as_usual(ranks, monkeypatch, why):
    trainer, _ = ranks
    error = StoppedError(signal.SIGTERM, "after step 3") if why == "agreed" else RuntimeError("CUDA error")
    if why == "alone":
        trainer.world_size = 1
    if why == "gloo":
        monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    if why == "no group":
        monkeypatch.setattr(dist, "is_initialized", lambda: False)
    ending.end_at_once(trainer, error)


def test_a_run_asks_for_it(run, monkeypatch):
    found = []
    monkeypatch.setattr("detection.engine.command.end_at_once", lambda trainer, error: found.append((trainer, error)))

    def fail(self, batch, batch_idx):
        raise ZeroDivisionError("a step")

    monkeypatch.setattr(DetectionModule, "training_step", fail)
    with pytest.raises(ZeroDivisionError):
        run("fit")
    ((trainer, error),) = found
    assert trainer.world_size == 1
    assert str(error) == "a step"
