"""RoIAlign against torchvision, forward and backward, and against worked numbers."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops.poolers import LevelMapper

from detection.fast import roi_align as fast
from detection.fast.levels import levels_from_maps
from detection.ops import roi_align as plain
from detection.ops.roi_align import assign_levels

HEIGHT, WIDTH, STRIDES = 128, 192, (4, 8, 16, 32)


def fast_roi_align(features: Sequence[Tensor], *arguments: Any, **options: Any) -> Tensor:
    return fast.roi_align(levels_from_maps(features), *arguments, **options)


WAYS = {"plain": plain.roi_align, "fast": fast_roi_align}
roi_align: Callable[..., Tensor]


@pytest.fixture(params=WAYS, autouse=True, scope="module")
def _way(request: pytest.FixtureRequest) -> None:
    """Run every test with both forms of the operation."""
    global roi_align
    roi_align = WAYS[request.param]


def pyramid(seed: int = 0, channels: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, HEIGHT // s, WIDTH // s, generator=generator).to(dtype) for s in STRIDES]


def random_boxes(seed: int, num: int = 12) -> Tensor:
    """Sides from 2 to 400 pixels, cut to the canvas: every level has some."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(2, num, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    half = torch.exp(torch.rand(2, num, 2, generator=generator) * 5.3)
    boxes = torch.cat([centre - half, centre + half], dim=-1).clamp(min=0)
    return boxes.minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))


def pool_by_torchvision(
    features: Sequence[Tensor],
    boxes: Tensor,
    size: int,
    sampling_ratio: int,
    aligned: bool,
    strides: Sequence[int] = STRIDES,
) -> Tensor:
    """Level after level with torchvision's op; a RoI takes the result of its level."""
    batch, num = boxes.shape[:2]
    level = assign_levels(boxes, len(features), first_level=strides[0].bit_length() - 1).flatten()
    pooled = [
        torchvision.ops.roi_align(x, list(boxes), size, 1 / stride, sampling_ratio, aligned)
        for x, stride in zip(features, strides, strict=True)
    ]
    return torch.stack(pooled)[level, torch.arange(batch * num)].unflatten(0, (batch, num))


def test_levels_by_hand() -> None:
    sides = torch.tensor([10.0, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=-1)
    assert assign_levels(boxes, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert assign_levels(boxes, 3, first_level=3).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    broken = torch.tensor([[0.0, 0, 0, 0], [9, 9, 3, 20], [torch.nan, 0, 1, 1], [0, 0, torch.inf, 1]])
    assert assign_levels(broken, 4).tolist() == [0, 0, 0, 3]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16))
def test_levels_are_torchvisions(seed: int) -> None:
    boxes = random_boxes(seed)
    assert torch.equal(assign_levels(boxes, 4).flatten(), LevelMapper(2, 5)(list(boxes)))


def test_constant_features_stay_constant() -> None:
    features = [torch.full((2, 1, HEIGHT // s, WIDTH // s), float(s)) for s in STRIDES]
    boxes = random_boxes(0)
    expected = torch.tensor(STRIDES)[assign_levels(boxes, 4)].float()[..., None, None, None].expand(2, 12, 1, 5, 5)
    for sampling_ratio in (0, 1, 2):
        torch.testing.assert_close(roi_align(features, STRIDES, boxes, 5, sampling_ratio), expected)


def test_a_ramp_is_sampled_at_bin_centres() -> None:
    """A cell's value stands at its centre: with f(x) = column, pixel x of a stride of 4 reads x / 4 - 0.5."""
    ramp = torch.arange(20.0).expand(1, 1, 20, 20)
    pooled = roi_align([ramp], [4], torch.tensor([[[16.0, 16, 48, 48]]]), 2)
    # Bins from 16 to 32 and 32 to 48 have their centres at 24 and 40.
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([[5.5, 9.5], [5.5, 9.5]]))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [2, 0, 1, 3])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([1, 3, 7]))
def test_roi_align_is_torchvisions(sampling_ratio: int, aligned: bool, seed: int, size: int) -> None:
    features, boxes = pyramid(seed), random_boxes(seed)
    pooled = roi_align(features, STRIDES, boxes, size, sampling_ratio, aligned)
    # Positions on the map are float32, exact to 1e-5 of a cell; neighbouring cells differ by a few units.
    torch.testing.assert_close(
        pooled, pool_by_torchvision(features, boxes, size, sampling_ratio, aligned), rtol=0, atol=1e-4
    )


def test_is_the_pooler_of_torchvision() -> None:
    features, boxes = pyramid(), random_boxes(0)
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = OrderedDict((str(i), x) for i, x in enumerate(features))
    expected = pooler(named, list(boxes), [(HEIGHT, WIDTH)] * 2).unflatten(0, (2, -1))
    torch.testing.assert_close(roi_align(features, STRIDES, boxes, 7, aligned=False), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_single_level(sampling_ratio: int) -> None:
    feature, boxes = pyramid()[2:3], random_boxes(3)
    expected = pool_by_torchvision(feature, boxes, 4, sampling_ratio, True, strides=(16,))
    torch.testing.assert_close(roi_align(feature, [16], boxes, 4, sampling_ratio), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [2, 0])
@pytest.mark.parametrize("aligned", [True, False])
def test_boxes_beyond_the_canvas(sampling_ratio: int, aligned: bool) -> None:
    """Samples up to one cell outside count as the rim, the others as zero."""
    features = pyramid()
    boxes = torch.tensor(
        [[-6.0, -6, 10, 10], [-40, -30, 30, 50], [170, 110, 230, 150], [300, 300, 330, 340], [-1, 5, 1, 7]]
    ).expand(2, -1, -1)
    expected = pool_by_torchvision(features, boxes, 4, sampling_ratio, aligned)
    pooled = roi_align(features, STRIDES, boxes, 4, sampling_ratio, aligned)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-4)
    assert pooled[:, 3].eq(0).all()


@pytest.mark.parametrize("sampling_ratio", [2, 0])
@pytest.mark.parametrize("aligned", [True, False])
def test_gradient_is_torchvisions(sampling_ratio: int, aligned: bool) -> None:
    boxes = random_boxes(1)
    ours = [x.requires_grad_() for x in pyramid()]
    theirs = [x.requires_grad_() for x in pyramid()]
    pooled = roi_align(ours, STRIDES, boxes, 7, sampling_ratio, aligned)
    incoming = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
    pooled.backward(incoming)
    pool_by_torchvision(theirs, boxes, 7, sampling_ratio, aligned).backward(incoming)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_gradient_is_the_numerical_one(sampling_ratio: int) -> None:
    features = [torch.rand(1, 2, 8, 8, dtype=torch.float64, requires_grad=True) for _ in range(1)]
    boxes = torch.tensor([[[3.0, 2, 25, 30], [0, 0, 0, 0]]])
    assert torch.autograd.gradcheck(lambda x: roi_align([x], [4], boxes, 2, sampling_ratio), features)


def test_gradient_is_the_same_on_every_run() -> None:
    grads = []
    for _ in range(2):
        features = [x.requires_grad_() for x in pyramid()]
        roi_align(features, STRIDES, random_boxes(0), 7).square().sum().backward()
        grads.append([x.grad for x in features])
    for a, b in zip(*grads, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_bfloat16_is_as_exact_as_its_rounding() -> None:
    features, boxes = pyramid(dtype=torch.bfloat16), random_boxes(2)
    expected = pool_by_torchvision([x.float() for x in features], boxes, 7, 2, True)
    pooled = roi_align(features, STRIDES, boxes, 7)
    assert pooled.dtype == torch.bfloat16
    # Eight bits: 0.4 % of each of the 16 weights and of the result, on features of about 3 at most.
    torch.testing.assert_close(pooled.float(), expected, rtol=0, atol=0.03)
    assert (pooled.float() - expected).abs().mean() < 2 * (expected.bfloat16() - expected).abs().mean()


def test_bfloat16_gradient_is_summed_in_float32() -> None:
    """The same box 2,000 times: a bfloat16 sum would stick once one part is below its last bit."""
    feature = torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    boxes = torch.tensor([0.0, 0, 32, 32]).expand(1, 2000, 4)
    fast_roi_align([feature], [4], boxes, 8, sampling_ratio=1).sum().backward()
    assert feature.grad is not None
    torch.testing.assert_close(feature.grad.float(), torch.full((1, 1, 8, 8), 2000.0), rtol=0.004, atol=0)


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_broken_boxes_are_harmless(sampling_ratio: int) -> None:
    features = [x.requires_grad_() for x in pyramid()]
    real = random_boxes(0)
    broken = torch.tensor(
        [[0.0, 0, 0, 0], [torch.nan] * 4, [0, 0, torch.inf, 9], [-1e30, -1e30, 1e30, 1e30], [9, 9, 3, 3]]
    )
    pooled = roi_align(features, STRIDES, torch.cat([real, broken.expand(2, -1, -1)], dim=1), 3, sampling_ratio)
    assert pooled.isfinite().all()
    torch.testing.assert_close(pooled[:, : real.shape[1]], roi_align(features, STRIDES, real, 3, sampling_ratio))
    pooled.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in features)


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_no_boxes(sampling_ratio: int) -> None:
    features = [x.requires_grad_() for x in pyramid()]
    pooled = roi_align(features, STRIDES, torch.zeros(2, 0, 4), 7, sampling_ratio)
    assert pooled.shape == (2, 0, 3, 7, 7)
    pooled.sum().backward()
    assert all(x.grad is not None and x.grad.eq(0).all() for x in features)


def test_only_boxes_without_area() -> None:
    assert roi_align(pyramid(), STRIDES, torch.zeros(2, 3, 4), 7, 0).eq(0).all()


def test_no_gradient_flows_into_the_boxes() -> None:
    boxes = random_boxes(0).requires_grad_()
    assert not roi_align(pyramid(), STRIDES, boxes, 7).requires_grad


def test_memory_format_changes_nothing() -> None:
    features, boxes = pyramid(), random_boxes(0)
    last = [x.contiguous(memory_format=torch.channels_last) for x in features]
    assert torch.equal(roi_align(features, STRIDES, boxes, 7), roi_align(last, STRIDES, boxes, 7))


def test_compiles_without_a_graph_break() -> None:
    def pool(boxes: Tensor, *features: Tensor) -> Tensor:
        return roi_align(features, STRIDES, boxes, 7)

    features, boxes = [x.requires_grad_() for x in pyramid()], random_boxes(0)
    pooled = torch.compile(pool, backend="aot_eager", fullgraph=True)(boxes, *features)
    expected = pool(boxes, *features)
    torch.testing.assert_close(pooled, expected)
    grads = torch.autograd.grad(pooled.square().sum(), features)
    for a, b in zip(grads, torch.autograd.grad(expected.square().sum(), features), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_device_agrees_with_cpu(sampling_ratio: int) -> None:
    boxes = random_boxes(0)
    host, device = [x.requires_grad_() for x in pyramid()], [x.cuda().requires_grad_() for x in pyramid()]
    expected = roi_align(host, STRIDES, boxes, 7, sampling_ratio)
    pooled = roi_align(device, STRIDES, boxes.cuda(), 7, sampling_ratio)
    torch.testing.assert_close(pooled.cpu(), expected, rtol=0, atol=1e-4)
    expected.square().sum().backward()
    pooled.square().sum().backward()
    for a, b in zip(host, device, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=1e-4, atol=1e-3)


def test_points_up_to_a_cell_outside_have_the_value_of_the_border():
    points = torch.tensor([-1.01, -1.0, -0.5, 0.0, 1.25, 3.0, 3.9, 4.0, 4.01, torch.nan])
    left, right, low, high = plain.neighbours(points.view(1, 1, -1), torch.tensor([4]))
    assert left.flatten().tolist() == [0, 0, 0, 0, 1, 3, 3, 3, 0, 0]
    assert right.flatten().tolist() == [1, 1, 1, 1, 2, 3, 3, 3, 1, 1]
    assert low.flatten().tolist() == [0, 1, 1, 1, 0.75, 1, 1, 1, 0, 0]
    assert high.flatten().tolist() == [0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0]
