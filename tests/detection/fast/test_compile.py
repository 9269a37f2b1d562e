"""The layers for whole images compile without a graph break, and once per canvas."""

import copy

import pytest
import torch

from detection import fast
from detection.fast.rcnn import compile_model
from detection.structures import Batch


class Counter:
    """A backend that runs what it is given and counts how often it is asked."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def counter():
    torch._dynamo.reset()
    yield Counter()
    torch._dynamo.reset()


BOX = ([10.0, 10, 60, 60], 1, False)


def test_losses_are_the_same_and_nothing_recompiles_after_warm_up(tiny, make_batch, counter):
    batches = [make_batch([[BOX], []], seed=seed) for seed in range(3)]

    def losses(batch: Batch) -> torch.Tensor:
        return torch.stack(list(tiny.losses(batch, generator=torch.Generator().manual_seed(0)).values()))

    tiny.train()
    expected = [losses(batch) for batch in batches]
    names = set(tiny.state_dict())
    compile_model(tiny, counter)  # fullgraph: a break would be an error
    found = [losses(batches[0])]
    warm = counter.graphs
    assert warm == 1  # backbone, pyramid and RPN head together
    found += [losses(batch) for batch in batches[1:]]
    sum(found).sum().backward()
    assert counter.graphs == warm
    assert set(tiny.state_dict()) == names
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_another_canvas_is_compiled_once(tiny, make_batch, counter):
    compile_model(tiny.eval(), counter)
    small, large = make_batch([[]]), make_batch([[]], canvas=(128, 160))
    with torch.no_grad():
        for batch in (small, large, small, large):
            tiny(batch.images, batch.sizes)
    assert counter.graphs == 2


@pytest.mark.slow
def test_more_shapes_than_pytorch_compiles_of_itself(tiny, make_batch, counter):
    compile_model(tiny, counter)
    for i in range(5):  # in training and in evaluation: 10, where PyTorch alone stops at 8
        batch = make_batch([[BOX]], canvas=(96, 96 + 32 * i))
        tiny.train().losses(batch)
        with torch.no_grad():
            tiny.eval()(batch.images, batch.sizes)
    assert counter.graphs == 10


def test_graphs_use_pytorchs_mode_and_mark_where_a_step_begins(tiny, make_batch, monkeypatch):
    asked, begun = {}, []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.update(options) or function)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    batch = make_batch([[BOX]])
    tiny.losses(batch)
    compile_model(tiny)
    tiny.losses(batch)
    assert asked["mode"] is None
    assert not begun
    compile_model(tiny, graphs=True)
    tiny.losses(batch)
    with torch.no_grad():
        tiny.eval()(batch.images, batch.sizes)
    assert asked["mode"] == "reduce-overhead"
    assert len(begun) == 2


@pytest.mark.slow
def test_where_there_is_no_gpu_graphs_are_compiled_all_the_same(tiny, make_batch):
    batches = [make_batch([[BOX], []], seed=seed) for seed in range(3)]

    def step(batch: Batch) -> list[torch.Tensor]:
        losses = tiny.losses(batch, generator=torch.Generator().manual_seed(0))
        parameters = [p for p in tiny.parameters() if p.requires_grad]
        return [*losses.values(), *torch.autograd.grad(sum(losses.values()), parameters)]

    tiny.train()
    expected = [step(batch) for batch in batches]
    compile_model(tiny, graphs=True)
    for batch, plain in zip(batches, expected, strict=True):
        for one, other in zip(step(batch), plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_copy_has_weights_of_its_own(tiny, make_batch, counter):
    compile_model(tiny.eval(), counter)
    batch = make_batch([[]])
    with torch.no_grad():
        before = tiny.features(batch.images, batch.sizes).rpn_outputs[0][0]
        other = copy.deepcopy(tiny)  # as averaging does
        other.rpn.objectness.bias += 1
        after, moved = (model.features(batch.images, batch.sizes).rpn_outputs[0][0] for model in (tiny, other))
    assert torch.equal(after, before)
    torch.testing.assert_close(moved, before + 1)


def test_a_plain_detector_is_not_compiled(tiny):
    with pytest.raises(ValueError, match="needs a converted detector"):
        compile_model(fast.revert(tiny))
