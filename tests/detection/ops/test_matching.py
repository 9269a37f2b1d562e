"""Matching compared with torchvision's Matcher and a loop; documented properties of the sampling."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher

from detection.ops.boxes import intersection_over_area, iou
from detection.ops.matching import match, sample
from detection.structures import IGNORE


def grid_boxes(generator: torch.Generator, *shape: int, side: int = 12) -> Tensor:
    """Boxes on a small grid of whole numbers, so that equal IoUs are common."""
    corner = torch.randint(0, side, (*shape, 2), generator=generator)
    return torch.cat([corner, corner + torch.randint(1, side, (*shape, 2), generator=generator)], dim=-1).float()


def match_slowly(
    boxes: Tensor, crowd: Tensor, candidates: Tensor, low: float, high: float, keep_best: bool, crowd_threshold: float
) -> tuple[list[int], list[int]]:
    """One image, one candidate after the other."""
    overlap = iou(boxes, candidates).tolist()
    inside = intersection_over_area(candidates, boxes).tolist()
    plain = [g for g in range(len(boxes)) if not crowd[g]]
    best_of = {g: max(overlap[g]) for g in plain}
    indices, labels = [], []
    for n in range(len(candidates)):
        best, index = 0.0, 0
        for g in plain:
            if overlap[g][n] > best:
                best, index = overlap[g][n], g
        label = 1 if best >= high else 0 if best < low else IGNORE
        if keep_best and any(overlap[g][n] == best_of[g] > 0 for g in plain):
            label = 1
        if label != 1 and any(crowd[g] and inside[n][g] >= crowd_threshold for g in range(len(boxes))):
            label = IGNORE
        indices.append(index)
        labels.append(label)
    return indices, labels


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**16), objects=st.integers(1, 6), keep_best=st.booleans(), crowds=st.booleans())
def test_match_is_the_loop(seed: int, objects: int, keep_best: bool, crowds: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, candidates = grid_boxes(generator, 2, objects), grid_boxes(generator, 2, 15)
    boxes[0, -1] = 0  # padding
    crowd = (torch.rand(2, objects, generator=generator) < 0.4) & crowds
    index, label = match(boxes, crowd, candidates, 0.3, 0.6, keep_best)
    for image in range(2):
        expected = match_slowly(boxes[image], crowd[image], candidates[image], 0.3, 0.6, keep_best, 0.5)
        assert (index[image].tolist(), label[image].tolist()) == expected


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**16), keep_best=st.booleans())
def test_match_is_torchvisions(seed: int, keep_best: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, candidates = grid_boxes(generator, 2, 5), grid_boxes(generator, 30)
    # torchvision gives an object that nothing touches every candidate as its best; here it has none.
    boxes[:, :, :2] = boxes[:, :, :2].clamp(max=6)
    candidates = torch.cat([candidates, torch.tensor([[0.0, 0, 12, 12]])])
    index, label = match(boxes, torch.zeros(2, 5, dtype=torch.bool), candidates, 0.3, 0.7, keep_best)
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=keep_best)
    for image in range(2):
        expected = matcher(torchvision.ops.box_iou(boxes[image], candidates))
        meaning = torch.where(expected >= 0, 1, torch.where(expected == Matcher.BELOW_LOW_THRESHOLD, 0, IGNORE))
        assert torch.equal(label[image], meaning)
        assert torch.equal(index[image][expected >= 0], expected[expected >= 0])


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**16), chunk=st.sampled_from([1, 40, 100, 130]), keep_best=st.booleans())
def test_chunks_change_nothing(seed: int, chunk: int, keep_best: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, candidates = grid_boxes(generator, 2, 7, side=5), grid_boxes(generator, 20, side=5)
    crowd = torch.rand(2, 7, generator=generator) < 0.2
    whole = match(boxes, crowd, candidates, 0.3, 0.7, keep_best, chunk=10**9)
    parts = match(boxes, crowd, candidates, 0.3, 0.7, keep_best, chunk=chunk)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_first_of_equal_objects_wins() -> None:
    box = torch.tensor([[[0.0, 0, 4, 4]]]).expand(1, 3, 4)
    for chunk in (2**20, 1):
        index, label = match(box, torch.zeros(1, 3, dtype=torch.bool), box[0, :1], 0.5, 0.5, chunk=chunk)
        assert (index.item(), label.item()) == (0, 1)


def test_padding_matches_nothing() -> None:
    candidates = torch.tensor([[0.0, 0, 0, 0], [0, 0, 8, 8], [3, 3, 5, 5]])
    _, label = match(torch.zeros(2, 4, 4), torch.zeros(2, 4, dtype=torch.bool), candidates, 0.3, 0.7, keep_best=True)
    assert label.eq(0).all()


def test_adding_padding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, candidates = grid_boxes(generator, 2, 4), grid_boxes(generator, 50)
    crowd = torch.tensor([[False, False, False, True]]).expand(2, 4)
    few = match(boxes, crowd, candidates, 0.3, 0.7, True)
    padded = torch.cat([boxes, torch.zeros(2, 4, 4)], dim=1)
    many = match(padded, torch.cat([crowd, torch.zeros(2, 4, dtype=torch.bool)], dim=1), candidates, 0.3, 0.7, True)
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=True))


def test_crowd_ignores_but_does_not_rob_positives() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 40, 40]]])
    crowd = torch.tensor([[False, True]])
    # The object itself, inside the crowd only, half inside, a little less, and far away.
    candidates = torch.tensor(
        [[0.0, 0, 10, 10], [20, 20, 30, 30], [35, 0, 45, 10], [35.1, 0, 45.1, 10], [90, 90, 99, 99]]
    )
    _, label = match(boxes, crowd, candidates, 0.5, 0.5)
    assert label.tolist() == [[1, IGNORE, IGNORE, 0, 0]]


def test_memory_of_many_objects_stays_small() -> None:
    """No tensor grows with the product of objects and anchors: 5,000 of 268,000 would take 5 GB each."""
    generator = torch.Generator().manual_seed(0)
    boxes, candidates = grid_boxes(generator, 1, 20, side=500), grid_boxes(generator, 100_000, side=500)
    crowd = torch.zeros(1, 20, dtype=torch.bool)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, Tensor):
                    largest = max(largest, x.numel())
            return out

    with Watch():
        match(boxes, crowd, candidates, 0.3, 0.7, True, chunk=2**18)
    assert largest <= max(2**18, 4 * 100_000)


def test_sample_counts_are_exact() -> None:
    label = torch.full((3, 40), IGNORE)
    label[0, :10], label[0, 10:30] = 1, 0  # enough of both: 4 positive, 12 negative
    label[1, :2], label[1, 5:30] = 1, 0  # two positives: 14 negatives
    label[2, :9], label[2, 20:23] = 1, 0  # three negatives: the rest is missing
    index, drawn = sample(label, 16, 0.25)
    assert drawn.tolist() == [[1] * 4 + [0] * 12, [1] * 2 + [0] * 14, [1] * 4 + [0] * 3 + [IGNORE] * 9]
    for image in range(3):
        valid = drawn[image] != IGNORE
        assert torch.equal(label[image, index[image][valid]], drawn[image][valid])
        assert len(index[image][valid].unique()) == valid.sum()


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**16),
    total=st.integers(1, 30),
    num=st.integers(1, 40),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_sample_draws_as_many_as_there_are(seed: int, total: int, num: int, fraction: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(-1, 2, (2, total), generator=generator)
    index, drawn = sample(label, num, fraction, generator)
    assert index.shape == drawn.shape == (2, num)
    assert index.min() >= 0
    assert index.max() < total
    for image in range(2):
        positives = min(int((label[image] == 1).sum()), int(num * fraction))
        negatives = min(int((label[image] == 0).sum()), num - positives)
        missing = num - positives - negatives
        assert drawn[image].tolist() == [1] * positives + [0] * negatives + [IGNORE] * missing
        used = index[image, : num - missing]
        assert torch.equal(label[image, used], drawn[image, : num - missing])
        assert len(used.unique()) == len(used)


def test_sample_is_uniform() -> None:
    """Each of 5 positives is one of 2 drawn with probability 2/5, each of 10 negatives one of 6 with 6/10."""
    label = torch.tensor([1] * 5 + [0] * 10 + [IGNORE] * 3).expand(20_000, -1)
    index, drawn = sample(label, 8, 0.25, torch.Generator().manual_seed(0))
    count = torch.zeros(18).index_add(0, index.flatten(), (drawn != IGNORE).flatten().float()) / 20_000
    expected = torch.tensor([0.4] * 5 + [0.6] * 10 + [0.0] * 3)
    # Five standard deviations of a mean of 20,000 draws: 5 * sqrt(0.24 / 20000) = 0.017.
    torch.testing.assert_close(count, expected, rtol=0, atol=0.017)


def test_same_generator_same_draw() -> None:
    label = torch.randint(-1, 2, (2, 500))
    draws = [sample(label, 64, 0.5, torch.Generator().manual_seed(7))[0] for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], sample(label, 64, 0.5, torch.Generator().manual_seed(8))[0])


@pytest.mark.parametrize("keep_best", [False, True])
def test_compiles_without_a_graph_break(keep_best: bool) -> None:
    def assign(boxes: Tensor, crowd: Tensor, candidates: Tensor) -> tuple[Tensor, ...]:
        index, label = match(boxes, crowd, candidates, 0.3, 0.7, keep_best, chunk=100)
        return index, label, *sample(label, 8, 0.5)

    generator = torch.Generator().manual_seed(0)
    inputs = grid_boxes(generator, 2, 4), torch.zeros(2, 4, dtype=torch.bool), grid_boxes(generator, 30)
    torch.manual_seed(1)
    result = torch.compile(assign, backend="eager", fullgraph=True)(*inputs)
    torch.manual_seed(1)
    for a, b in zip(result, assign(*inputs), strict=True):
        assert torch.equal(a, b)
