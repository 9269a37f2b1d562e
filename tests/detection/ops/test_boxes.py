"""Box arithmetic against hand-worked numbers, torchvision, and its own inverses."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from detection.ops import boxes as box_ops


def random_boxes(seed: int, *shape: int, size: float = 200.0) -> Tensor:
    """Proper boxes, wide enough that no two differ by more than the 62.5 times to which decoding limits growth."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * size
    return torch.cat([corner, corner + 4 + torch.rand(*shape, 2, generator=generator) * size], dim=-1)


def test_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    b = torch.tensor([[2.0, 2.0, 6.0, 4.0], [0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0]])
    # 2 x 2 shared of 16 + 8 - 4; itself; only an edge in common.
    assert box_ops.iou(a, b).tolist() == [[pytest.approx(4 / 20), 1.0, 0.0]]
    assert box_ops.intersection_over_area(a, b).tolist() == [[4 / 16, 1.0, 0.0]]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16))
def test_iou_is_torchvisions_to_the_bit(seed: int) -> None:
    a, b = random_boxes(seed, 7), random_boxes(seed + 1, 9)
    assert torch.equal(box_ops.iou(a, b), torchvision.ops.box_iou(a, b))
    assert torch.equal(box_ops.area(a), torchvision.ops.box_area(a))


def test_iou_takes_leading_axes() -> None:
    a, b = random_boxes(0, 2, 3, 5), random_boxes(1, 2, 3, 4)
    expected = torch.stack(
        [torchvision.ops.box_iou(x, y) for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
    )
    assert torch.equal(box_ops.iou(a, b), expected.view(2, 3, 5, 4))


def test_boxes_without_area_overlap_nothing() -> None:
    empty = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 3, 3]])  # padding, a line, inside out
    real = torch.tensor([[0.0, 0, 10, 10]])
    for a, b in ((empty, real), (real, empty), (empty, empty)):
        assert box_ops.iou(a, b).eq(0).all()
    assert box_ops.intersection_over_area(empty, real).eq(0).all()
    assert box_ops.area(empty).eq(0).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16))
def test_intersection_over_area_counts_the_part_inside(seed: int) -> None:
    a, b = random_boxes(seed, 6), random_boxes(seed + 1, 5)
    expected = torch.zeros(6, 5)
    for i, (x1, y1, x2, y2) in enumerate(a.tolist()):
        for j, (u1, v1, u2, v2) in enumerate(b.tolist()):
            shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
            expected[i, j] = shared / ((x2 - x1) * (y2 - y1))
    torch.testing.assert_close(box_ops.intersection_over_area(a, b), expected, rtol=1e-4, atol=1e-5)


def test_clip_uses_each_images_own_size() -> None:
    boxes = torch.tensor([-5.0, -5, 50, 50]).expand(2, 3, 4)
    sizes = torch.tensor([[20, 30], [60, 40]])  # height, width
    clipped = box_ops.clip(boxes, sizes)
    assert clipped[0].tolist() == [[0, 0, 30, 20]] * 3
    assert clipped[1].tolist() == [[0, 0, 40, 50]] * 3
    for boxes_of_image, size, result in zip(boxes, sizes.tolist(), clipped, strict=True):
        assert torch.equal(torchvision.ops.clip_boxes_to_image(boxes_of_image, tuple(size)), result)


def test_rescale_there_and_back() -> None:
    boxes = random_boxes(0, 2, 5)
    small, large = torch.tensor([[100, 200], [50, 80]]), torch.tensor([[300, 200], [25, 160]])
    scaled = box_ops.rescale(boxes, small, large)
    torch.testing.assert_close(scaled[0], boxes[0] * torch.tensor([1.0, 3, 1, 3]))
    torch.testing.assert_close(scaled[1], boxes[1] * torch.tensor([2, 0.5, 2, 0.5]))
    torch.testing.assert_close(box_ops.rescale(scaled, large, small), boxes)


def test_rescale_of_a_filler_image_is_finite() -> None:
    assert box_ops.rescale(torch.zeros(1, 2, 4), torch.zeros(1, 2), torch.zeros(1, 2)).eq(0).all()


def test_encode_by_hand() -> None:
    anchor, box = torch.tensor([0.0, 0, 10, 20]), torch.tensor([5.0, 0, 25, 20])
    # Centre from (5, 10) to (15, 10): 10 / 10 widths; twice as wide, as high as before.
    torch.testing.assert_close(box_ops.encode(box, anchor), torch.tensor([1.0, 0, math.log(2), 0]))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**16))
def test_encode_and_decode_are_torchvisions(weights: tuple[float, ...], seed: int) -> None:
    coder = BoxCoder(weights)  # type: ignore[arg-type]
    boxes, anchors = random_boxes(seed, 8), random_boxes(seed + 1, 8)
    deltas = box_ops.encode(boxes, anchors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors), rtol=1e-6, atol=1e-6)
    wild = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)) * 4  # beyond the clamp too
    torch.testing.assert_close(
        box_ops.decode(wild, anchors, weights), coder.decode_single(wild, anchors), rtol=1e-6, atol=1e-3
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16))
def test_decode_inverts_encode(seed: int) -> None:
    boxes, anchors = random_boxes(seed, 2, 8), random_boxes(seed + 1, 2, 8)
    weights = (10.0, 10.0, 5.0, 5.0)
    # float32 at 400 px resolves 3e-5; the logarithm and back lose a few of these steps.
    torch.testing.assert_close(
        box_ops.decode(box_ops.encode(boxes, anchors, weights), anchors, weights), boxes, rtol=0, atol=2e-3
    )


def test_decode_is_float32_and_broadcasts() -> None:
    deltas, anchors = torch.zeros(2, 3, 5, 4, dtype=torch.bfloat16), random_boxes(0, 2, 3)
    boxes = box_ops.decode(deltas, anchors[:, :, None])
    assert boxes.dtype == torch.float32
    torch.testing.assert_close(boxes, anchors[:, :, None].expand(2, 3, 5, 4))


def test_decode_limits_growth() -> None:
    box = box_ops.decode(torch.tensor([0.0, 0, 50, 50]), torch.tensor([0.0, 0, 16, 16]))
    torch.testing.assert_close(box, torch.tensor([-492.0, -492, 508, 508]))  # 16 px grow to 1000


def test_padding_gives_finite_deltas_and_gradients() -> None:
    zero, real = torch.zeros(4), torch.tensor([1.0, 2, 300, 400])
    for boxes, anchors in ((zero, real), (real, zero), (zero, zero)):
        assert box_ops.encode(boxes, anchors).isfinite().all()
    deltas = torch.randn(4, requires_grad=True)
    box_ops.decode(deltas, zero).sum().backward()
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()


def test_compiles_without_a_graph_break() -> None:
    def everything(boxes: Tensor, anchors: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        decoded = box_ops.decode(box_ops.encode(boxes, anchors), anchors)
        clipped = box_ops.clip(decoded, sizes)
        return box_ops.iou(clipped, anchors), box_ops.intersection_over_area(boxes, anchors), clipped

    inputs = (random_boxes(0, 2, 5), random_boxes(1, 2, 5), torch.full((2, 2), 150))
    compiled = torch.compile(everything, backend="eager", fullgraph=True)
    for result, expected in zip(compiled(*inputs), everything(*inputs), strict=True):
        assert torch.equal(result, expected)


def test_an_image_of_one_pixel_is_scaled_by_the_whole_factor() -> None:
    box = torch.tensor([[[0.0, 0, 1, 1]]])
    assert box_ops.rescale(box, torch.tensor([[1, 1]]), torch.tensor([[5, 7]])).tolist() == [[[0, 0, 7, 5]]]


def test_weights_are_ones_unless_told():
    boxes, anchors = torch.tensor([[1.0, 2, 5, 9]]), torch.tensor([[0.0, 1, 4, 4]])
    deltas = box_ops.encode(boxes, anchors)
    assert torch.equal(deltas, box_ops.encode(boxes, anchors, (1, 1, 1, 1)))
    assert torch.equal(box_ops.decode(deltas, anchors), box_ops.decode(deltas, anchors, (1, 1, 1, 1)))


def test_a_box_that_is_turned_round_along_one_axis_has_no_area():
    boxes = torch.tensor([[0.0, 0, 2, 3], [2, 0, 0, 3], [0, 3, 2, 0], [2, 3, 0, 0], [0, 0, 2, -0.5], [0, 0, -0.5, 3]])
    assert box_ops.area(boxes).tolist() == [6, 0, 0, 0, 0, 0]
