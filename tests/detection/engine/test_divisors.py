"""Losses of one-stage detectors on several devices: each device divides by the mean count of all."""

import pytest
import torch

from detection.engine import divisors
from detection.models.dense_head import at_least
from tests.detection.models.test_one_stage import make
from tests.support.detectors import make_batch, make_tiny

OBJECTS = [[([10.0, 10, 60, 60], 1, False), ([40.0, 30, 90, 90], 2, False)], [([5.0, 5, 30, 25], 0, False)]]


@pytest.fixture
def two(monkeypatch):
    """Pretend that this device is one of two; ``two.append`` gives the counts of the other one, in order."""
    counts: list[float] = []
    monkeypatch.setattr(divisors.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(divisors.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(divisors.dist, "all_reduce", lambda total: total.add_(counts.pop(0)))
    return counts


@pytest.mark.parametrize(("own", "other", "least", "expected"), [(6, 2, 1, 4), (0, 0, 1, 0.5), (0, 1, 1, 0.5)])
def test_the_divisor_is_the_mean_count(two, own, other, least, expected):
    two.append(other)
    count = torch.tensor(own)
    assert float(divisors.mean_over_devices(count, least)) == expected
    assert int(count) == own


def test_a_count_with_a_fraction_stays_as_it_was(two):
    two.append(1.25)
    count = torch.tensor(0.5, dtype=torch.float64)
    assert divisors.mean_over_devices(count, 1e-6) == torch.tensor(0.875, dtype=torch.float64)
    assert float(count) == 0.5


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "task_aligned"])
def test_two_devices_have_the_loss_of_one(two, kind):
    """Each device has one image; the mean of their losses is the loss of both images."""
    model, batch = make(kind), make_batch(OBJECTS)
    with torch.no_grad():
        features = model.features(batch.images, batch.sizes)
        whole = model.losses(batch, features)
        halves = []
        for i in (0, 1):
            targets = type(batch.targets)(*(None if x is None else x[i : i + 1] for x in batch.targets))
            part = batch._replace(images=batch.images[i : i + 1], sizes=batch.sizes[i : i + 1], targets=targets)
            halves.append((part, [level[i : i + 1] for level in features]))
        counts = [recorded(model, *half) for half in halves]
        found = []
        for half, others in zip(halves, reversed(counts), strict=True):
            two[:] = others
            with divisors.common_divisors(model):
                found.append(model.losses(*half))
            assert not two
    assert bool(counts[0]) == (kind != "retinanet")
    for name, expected in whole.items():
        assert float(sum(one[name] for one in found) / 2) == pytest.approx(float(expected), rel=1e-4), name
    assert model.head.divisor is at_least


def recorded(model, batch, features) -> list[float]:
    """The counts by which a head would divide, in order."""
    counts: list[float] = []
    model.head.divisor = lambda count, least: counts.append(float(count)) or at_least(count, least)
    model.losses(batch, features)
    model.head.divisor = at_least
    return counts


def test_an_error_and_other_detectors_leave_the_divisor(two):
    model = make("fcos")
    with pytest.raises(AttributeError), divisors.common_divisors(model):
        model.losses(None)
    assert model.head.divisor is at_least
    with divisors.common_divisors(make_tiny()):
        pass
