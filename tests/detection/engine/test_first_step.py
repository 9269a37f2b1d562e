from types import SimpleNamespace

import torch

from detection.engine import first_step
from detection.engine.first_step import FirstStepMemory


def test_memory_is_told_when_the_first_step_begins_and_once_when_it_is_over(monkeypatch):
    told: list[object] = []
    monkeypatch.setattr(first_step, "begin_training", lambda: told.append("begins"))
    monkeypatch.setattr(first_step, "go_on_training", told.append)
    for device in ("cpu", "cuda"):
        where = SimpleNamespace(device=torch.device(device))
        callback = FirstStepMemory(5e7)
        for batch in range(5):  # two of them are one step
            callback.on_train_batch_start(SimpleNamespace(global_step=batch // 2), where, None, batch)
            callback.on_train_batch_end(SimpleNamespace(global_step=(batch + 1) // 2), where, None, None, batch)
    assert told == ["begins", "begins", 5e7]
