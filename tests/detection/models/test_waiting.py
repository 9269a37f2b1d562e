"""What a training step asks of a GPU, seen on machines without one.

Tensors without numbers take the ways of a device, and whatever the host wants to know of them is an error. On a GPU
that would be a wait. What CUDA's own kernels wait for inside only a GPU can tell (tests/end_to_end/test_gpu.py).
"""

import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from backbones import BackboneConfig
from detection.models import rpn
from detection.models.rcnn import mask_rcnn
from detection.ops import levels

ROOT = Path(__file__).parents[3]
VIEWS = {"aten::_unsafe_view", "aten::detach", "prim::device"}


class Spy(TorchDispatchMode):
    """Counts what would be launched, by file, and notes what crosses between host and device."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.crossed: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {x.device for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
        place = caller()
        if len(devices) > 1:
            self.crossed.append(f"{place}: {func}")
        name = func._schema.name
        if not (func.is_view or name in VIEWS or "empty" in name):
            self.launched[place.partition(":")[0]] += 1
        return result


def caller() -> str:
    """The line of ours that is running; autograd has none."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("detection", "backbones"):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "autograd"


@pytest.fixture(params=["meta", "cuda"])
def losses(request, make_batch, monkeypatch):
    """A detector's losses of a batch on a device without numbers, on ``cuda`` in bfloat16; and the detector."""
    device = request.param
    # The one part that may wait; and ours alone, lest a GPU be asked for what fake tensors left behind.
    monkeypatch.setattr(rpn, "nms", lambda boxes, scores, threshold: scores.isfinite())
    monkeypatch.setattr(levels, "_kept_table", levels.lru_cache(levels._table))
    model = mask_rcnn(BackboneConfig("resnet18", norm="frozen", freeze=2), num_classes=5)
    batch = make_batch([[([10, 10, 60, 50], 1, False)], [([20, 30, 80, 90], 2, False)]])

    def there(x):
        if isinstance(x, torch.nn.Parameter):
            return torch.nn.Parameter(torch.empty_like(x, device=device), x.requires_grad)
        return torch.empty_like(x, device=device) if isinstance(x, Tensor) else x

    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for values in (module._parameters, module._buffers):
                values.update({name: there(value) for name, value in values.items()})
        batch = tree_map(there, batch)
        if device == "cuda":  # torch.autocast itself looks for a GPU
            before = torch.get_autocast_dtype("cuda")
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            torch.set_autocast_enabled("cuda", True)
        try:
            model.losses(batch)  # anchors and the like go to the device at the first sight of a shape
            yield lambda: model.losses(batch), model
        finally:
            if device == "cuda":
                torch.set_autocast_enabled("cuda", False)
                torch.set_autocast_dtype("cuda", before)


def test_a_training_step_tells_the_host_nothing_and_asks_it_for_nothing(losses):
    compute, model = losses
    with Spy() as spy:
        total = torch.stack(list(compute().values())).sum()
        if total.device.type == "meta":  # PyTorch's backward pass of CUDA tensors needs a GPU
            total.backward()
            assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert spy.crossed == []


def test_proposals_matching_and_heads_launch_little(losses):
    """Launches are what a GPU waits for in small batches; each of these costs some microseconds of the host."""
    compute, _ = losses
    with Spy() as spy:
        compute()
    assert 300 < sum(n for place, n in spy.launched.items() if place.startswith("detection")) < 750


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: torch.equal(x, x + 1),
    ],
)
def test_what_the_host_asks_is_noticed(asks):
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        asks(torch.empty(3, device="cuda"))


@pytest.mark.parametrize("moves", [lambda x: x.cpu(), lambda x: torch.zeros(3).to(x.device)])
def test_what_is_moved_is_noticed(moves):
    with FakeTensorMode(), Spy() as spy:
        moves(torch.empty(3, device="cuda"))
    assert len(spy.crossed) == 1
