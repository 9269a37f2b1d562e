"""Operators made of Python functions: one node each for compilers, gradients, and kernels by device."""

import torch
import torchvision
from torch import Tensor

from detection.ops.nms import nms
from detection.ops.operators import greedy_nms, operator, register_kernel, shape_of
from detection.ops.selection import select_detections


def lists():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(3, 50, 4, generator=generator) * 50
    boxes[..., 2:] += boxes[..., :2]
    return boxes, torch.rand(3, 50, generator=generator).sort(descending=True, dim=1).values


def test_pytorch_accepts_the_operators():
    boxes, scores = lists()
    torch.library.opcheck(nms, (boxes, scores, 0.5))
    torch.library.opcheck(select_detections, (boxes[:, :, None], scores[..., None], 0.05, 0.5, 10))


def test_a_compiler_sees_one_node():
    boxes, scores = lists()
    compiled = torch.compile(lambda boxes, scores: nms(boxes, scores, 0.5), backend="eager", fullgraph=True)
    assert torch.equal(compiled(boxes, scores), nms(boxes, scores, 0.5))


def test_the_loop_is_that_of_torchvision():
    boxes, scores = lists()
    assert torch.equal(greedy_nms(boxes[0], scores[0], 0.5), torchvision.ops.nms(boxes[0], scores[0], 0.5))


def test_a_kernel_replaces_the_plain_function_on_its_device():
    @operator
    def twice_for_a_test(x: Tensor) -> Tensor:
        """Double."""
        return 2 * x

    @shape_of(twice_for_a_test)
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    assert twice_for_a_test(torch.ones(2)).tolist() == [2, 2]
    register_kernel(twice_for_a_test, "cpu", lambda x: x + x + 1)
    assert twice_for_a_test(torch.ones(2)).tolist() == [3, 3]
    assert twice_for_a_test.plain(torch.ones(2)).tolist() == [2, 2]
    assert twice_for_a_test(torch.ones(2, device="meta")).shape == (2,)
    assert twice_for_a_test.__doc__ == "Double."
