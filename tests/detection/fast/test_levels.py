"""The table of a pyramid, its maps, and the gradients of layers that read it."""

from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detection.fast import roi_align as module
from detection.fast.levels import Levels, levels_from_maps, pick, with_gradient_sum
from detection.fast.patches import patches
from detection.fast.roi_align import roi_align


def test_the_maps_come_back_as_views():
    features = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 3), torch.randn(2, 3, 1, 2)]
    levels = levels_from_maps(features)
    for one, other in zip(levels.maps, features, strict=True):
        assert torch.equal(one, other)
        assert one.is_contiguous(memory_format=torch.channels_last)
        assert one.untyped_storage().data_ptr() == levels.vectors.untyped_storage().data_ptr()
    assert levels.starts == [0, 2 * 20, 2 * 20 + 2 * 6]
    assert torch.equal(levels.vectors[levels.starts[1] + 6 + 4], features[1][1, :, 1, 1])  # image 1, row 1, column 1


def test_pick_is_an_index_without_a_tensor():
    level = torch.tensor([[2, 0], [1, 2]])
    assert torch.equal(pick([7, 8, 9], level), torch.tensor([[9, 7], [8, 9]]))
    assert torch.equal(pick([0.5, 0.25, 0.125], level), torch.tensor([[0.125, 0.5], [0.25, 0.125]]))


BOXES = torch.tensor(
    [[[1.0, 2, 21, 17], [0, 0, 64, 40], [30, 9, 33, 40]], [[5, 5, 50, 9], [8, 0, 12, 40], [0, 0, 0, 0]]]
)


def pooled(size: int):
    return lambda levels: roi_align(levels, (8, 16), BOXES, size)


def windows(levels: Levels) -> Tensor:
    zero, one = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    return patches(levels, torch.tensor([0, 1, 0, 0]), one, zero, torch.tensor([2, 1, 2, 0]), 1)[0]


READERS = {"boxes": pooled(2), "masks": pooled(3), "windows": windows, "maps": lambda levels: levels.maps[0].square()}


def table() -> Levels:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, 8), (2, 3, 3, 4)]
    levels = levels_from_maps([torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes])
    return levels._replace(vectors=levels.vectors.requires_grad_())


@pytest.mark.parametrize("piece", [1 << 20, 3 * 7])
@pytest.mark.parametrize("who", [names for n in range(1, 5) for names in combinations(READERS, n)], ids="-".join)
def test_gradients_are_those_that_autograd_adds_up(who, piece, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", piece)
    gradients = []
    for way in (lambda levels: levels, with_gradient_sum):
        levels = table()
        seen = way(levels)
        assert torch.equal(seen.vectors, levels.vectors)
        losses = [(k + 1) * READERS[name](seen).square().sum() for k, name in enumerate(who)]
        gradients += torch.autograd.grad(sum(losses), [levels.vectors])
    torch.testing.assert_close(*gradients)


def test_gradients_of_two_backward_passes_add_up():
    levels = table()
    seen = with_gradient_sum(levels)
    losses = [READERS[name](seen).square().sum() for name in ("boxes", "masks")]
    for loss in losses:
        loss.backward(retain_graph=True)
    plain = table()
    sum(READERS[name](plain).square().sum() for name in ("boxes", "masks")).backward()
    torch.testing.assert_close(levels.vectors.grad, plain.vectors.grad)


def test_what_one_backward_pass_left_is_not_added_to_the_next():
    levels, plain = table(), table()
    seen = with_gradient_sum(levels)
    loss = READERS["boxes"](seen).square().sum()
    assert torch.autograd.grad(loss, seen.vectors, retain_graph=True, allow_unused=True) == (None,)
    expected = torch.autograd.grad(READERS["boxes"](plain).square().sum(), plain.vectors)
    torch.testing.assert_close(torch.autograd.grad(loss, levels.vectors, retain_graph=True), expected)
    # Nor to that of the maps, which leave nothing.
    torch.autograd.grad(loss, seen.vectors, allow_unused=True)
    found = torch.autograd.grad(seen.maps[0].square().sum(), levels.vectors)
    torch.testing.assert_close(found, torch.autograd.grad(plain.maps[0].square().sum(), plain.vectors))


@pytest.mark.parametrize(
    ("way", "tables"), [(with_gradient_sum, 1), (lambda levels: levels, 3)], ids=["summed", "by autograd"]
)
def test_readers_share_one_tensor(way, tables, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 3 * 7)
    levels = table()
    seen = way(levels)
    loss = sum(READERS[name](seen).square().sum() for name in ("boxes", "masks", "windows"))
    with Made(levels.vectors.numel()) as made:
        loss.backward()
    assert made.tables == tables


class Made(TorchDispatchMode):
    """Counts the tensors of a size that readers make."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.tables = size, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **options or {})
        first = result[0] if isinstance(result, tuple) else result
        makes = function.__name__.split(".")[0] in ("new_zeros", "_embedding_bag", "_embedding_bag_forward_only")
        self.tables += makes and first.numel() == self.size
        return result


def test_without_a_gradient_nothing_is_summed():
    levels = levels_from_maps([torch.randn(1, 3, 4, 4)])
    assert with_gradient_sum(levels) is levels
    with torch.no_grad():
        assert with_gradient_sum(learning := table()) is learning
