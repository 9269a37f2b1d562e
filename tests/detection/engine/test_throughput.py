from types import SimpleNamespace

import pytest
import torch

from detection.engine import throughput


@pytest.mark.parametrize(("wait", "told"), [(0.5, True), (0.1, False)])
def test_waiting_for_images_is_logged_and_told(monkeypatch, wait, told):
    clock, logged, printed = [0.0], {}, []
    monkeypatch.setattr(throughput.time, "monotonic", lambda: clock[0])
    trainer = SimpleNamespace(global_step=0, world_size=1, log_every_n_steps=1)
    module = SimpleNamespace(log=lambda name, value: logged.update({name: value}), print=printed.append)
    batch, callback = SimpleNamespace(images=torch.zeros(2)), throughput.Throughput()
    for _ in range(4):
        callback.on_train_batch_start(trainer, module, batch, 0)
        clock[0] += 1 - wait
        callback.on_train_batch_end(trainer, module, None, batch, 0)
        clock[0] += wait
    assert logged["train/data_wait"] == pytest.approx(wait)
    assert logged["train/images_per_second"] == pytest.approx(2)
    callback.on_train_end(trainer, module)
    assert bool(printed) == told
    assert not told or "waited for images 50% of the time" in printed[0]
