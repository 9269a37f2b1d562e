"""What works on whole images compiles without a break, and once per canvas."""

import pytest
import torch

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
    tiny.compile_dense(counter)  # fullgraph: a break would be an error
    found = [losses(batches[0])]
    warm = counter.graphs
    assert warm == 3  # backbone, pyramid, RPN head
    found += [losses(batch) for batch in batches[1:]]
    sum(found).sum().backward()
    assert counter.graphs == warm
    assert set(tiny.state_dict()) == names
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_another_canvas_is_compiled_once(tiny, make_batch, counter):
    tiny.eval().compile_dense(counter)
    small, large = make_batch([[]]), make_batch([[]], canvas=(128, 160))
    with torch.no_grad():
        for batch in (small, large, small, large):
            tiny(batch.images, batch.sizes)
    assert counter.graphs == 6
