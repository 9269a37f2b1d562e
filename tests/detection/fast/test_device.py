"""On a device the same numbers as on the CPU, and few waits for it; seen on machines without a GPU.

What CUDA's own kernels wait for inside, only a GPU can tell (tests/end_to_end/test_gpu.py).
"""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from detection import fast
from detection.fast import levels
from detection.ops.selection import select_detections
from tests.support import detectors
from tests.support.pretended_device import PretendedDevice, carried

OBJECTS = [[([10, 10, 60, 50], 1, False), ([30, 20, 90, 80], 0, True)], [([20, 30, 80, 90], 2, False)]]


@pytest.fixture(params=["masks", "points"])
def either(request, tiny):
    """A faster Mask R-CNN or PointRend."""
    return tiny if request.param == "masks" else fast.convert(detectors.make_points())


def step(model, batch) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    losses = model.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def places(lines: list[str]) -> Counter[str]:
    return Counter(line.partition(":")[0] for line in lines)


@pytest.mark.slow
def test_a_training_step_gives_the_same_numbers_and_never_waits(either, make_batch):
    batch = make_batch(OBJECTS)
    expected = step(either.train(), batch)
    gradients = {name: p.grad for name, p in either.named_parameters()}
    with PretendedDevice() as device:
        model, there = device.put(either), device.put(batch)
        step(model, there)  # the first of a shape brings what is kept of it
        device.waits.clear()
        losses = device.get(step(model, there))
        found = {name: device.get(p.grad) for name, p in model.named_parameters()}
    # Sums of one after the other are those of a convolution that holds them; in another order on some CPUs.
    torch.testing.assert_close(losses, {name: value.detach() for name, value in expected.items()})
    for name, value in gradients.items():  # how many rows a product has, and so the order of its sums, differs
        torch.testing.assert_close(found[name], value, msg=name)
    assert not device.waits


@pytest.mark.slow
def test_inference_gives_the_same_detections_with_few_waits(either, make_batch):
    batch = make_batch(OBJECTS)
    with torch.no_grad():
        expected = either.eval()(batch.images, batch.sizes)
        with PretendedDevice() as device:
            model, there = device.put(either), device.put(batch)
            model(there.images, there.sizes)
            device.waits.clear()
            found = device.get(model(there.images, there.sizes))
    assert (found.labels >= 0).sum() > 10
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(tuple(found), tuple(expected))
    assert not device.waits  # but for those inside the choice of detections, which the next test counts


def test_the_choice_of_detections_waits_few_times():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 50, 3, 2, generator=generator) * 60
    boxes, scores = torch.cat([corners, corners + 30], dim=-1), torch.rand(2, 50, 3, generator=generator)
    with PretendedDevice() as device:
        select_detections.plain(*device.put((boxes, scores)), 0.05, 0.5, 10)
    assert places(device.waits) == {"detection/ops/selection.py": 5}, device.waits


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x + 1),
        lambda x: x.cpu(),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.arange(3, device=x.device).repeat_interleave(torch.ones_like(x, dtype=torch.int64)),
    ],
)
def test_a_wait_is_noticed(asks):
    with PretendedDevice() as device:
        asks(device.put(torch.ones(3)))
        assert len(device.waits) >= 1


def test_two_devices_in_one_operation_are_rejected():
    with PretendedDevice() as device, pytest.raises(RuntimeError, match="on two devices"):
        device.put(torch.ones(3)) + torch.ones(3)


@pytest.mark.slow
def test_under_cudas_autocast_nothing_leaves_the_device(either, make_batch, monkeypatch):
    """In bfloat16, on tensors without numbers: there whatever the host asks is an error."""
    monkeypatch.setattr(levels, "_cached_table", levels.lru_cache(levels._table))  # not for a GPU that is there

    def there(x):
        return torch.empty_like(x, device="cuda")

    batch = make_batch(OBJECTS)
    with FakeTensorMode(allow_non_fake_inputs=True):
        carried(either.train(), there)
        batch = carried(batch, there)
        dtype = torch.get_autocast_dtype("cuda")  # torch.autocast itself looks for a GPU
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        try:
            features = either.features(batch.images, batch.sizes)
            losses = either.losses(batch, features)
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", dtype)
    assert features[0].dtype == torch.bfloat16
    assert {(loss.device.type, loss.dtype) for loss in losses.values()} == {("cuda", torch.float32)}
