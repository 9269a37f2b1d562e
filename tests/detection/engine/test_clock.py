"""The clock measures the parts of a step, and does not change the network."""

import pytest
import torch

from detection import fast
from detection.engine.clock import Clock
from detection.models.rcnn import FasterRCNN
from tests.support import detectors


@pytest.fixture
def tiny():
    return fast.convert(detectors.make_tiny())


@pytest.fixture
def batch():
    return detectors.make_batch([[([10, 10, 60, 70], 1, False)], []])


@pytest.mark.parametrize("masks", [True, False])
def test_all_of_a_step_belongs_to_a_part(tiny, batch, masks):
    model = tiny if masks else fast.convert(FasterRCNN(tiny.backbone, tiny.fpn, tiny.rpn, tiny.box_head))
    with Clock(model) as clock:
        losses = model.losses(batch)
        clock("backward")
        torch.stack(list(losses.values())).sum().backward()
    parts = ["dense", "proposals", "box head", *(["mask head"] if masks else [])]
    assert list(clock.seconds()) == [*parts, "backward"]
    assert all(seconds > 0 for seconds in clock.seconds().values())
    with torch.no_grad(), Clock(model) as clock:
        model(batch.images, batch.sizes)
    assert list(clock.seconds()) == parts


def test_a_closed_clock_has_changed_nothing(tiny, batch):
    own = {name: set(vars(module)) for name, module in tiny.named_modules()}
    before = tiny.losses(batch, generator=torch.Generator().manual_seed(0))
    with Clock(tiny) as clock:
        timed = tiny.losses(batch, generator=torch.Generator().manual_seed(0))
    assert {name: set(vars(module)) for name, module in tiny.named_modules()} == own
    assert all(torch.equal(before[name], timed[name]) for name in before)
    told = clock.seconds()
    tiny.losses(batch)
    assert clock.seconds() == told


def test_times_add_up_by_part(tiny, monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 7.0, 15.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    with Clock(tiny) as clock:
        for part in ("a", "b", "a", ""):
            clock(part)
    assert clock.seconds() == {"a": 1.0 + 4.0, "b": 2.0}
