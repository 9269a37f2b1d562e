"""Logits of a few anchors from windows, compared with those of the whole maps."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection import fast
from detection.fast.levels import levels_from_maps
from detection.models.rpn import RPN, RPNConfig

STRIDES = (4, 8, 16, 32, 64)


def make(convs: int, seed: int = 0, channels: int = 8) -> RPN:
    torch.manual_seed(seed)
    rpn = fast.convert(RPN(channels, STRIDES, RPNConfig(convs=convs)).double())
    for parameter in rpn.parameters():  # large enough that ReLU cuts, and borders matter
        torch.nn.init.normal_(parameter, std=0.3)
    return rpn


def levels(height: int, width: int, channels: int = 8, batch: int = 2) -> list[torch.Tensor]:
    shapes = [(batch, channels, -(-height // stride), -(-width // stride)) for stride in STRIDES]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def gradients(rpn: RPN, features: list[torch.Tensor], logits, deltas) -> list[torch.Tensor]:
    loss = (logits * torch.arange(logits.numel()).view_as(logits)).sum() + deltas.square().sum()
    inputs = [*features, *rpn.parameters()]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(value) if grad is None else grad for value, grad in zip(inputs, found, strict=True)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(16, 96), st.integers(16, 96), st.integers(0, 10**6))
def test_a_few_anchors_equal_the_whole_maps_there_with_all_gradients(convs, height, width, seed):
    rpn, features = make(convs, seed), levels(height, width)
    total = sum(x.shape[-2] * x.shape[-1] * 3 for x in features)
    index = torch.randint(total, (2, 40))
    index[:, :2] = torch.tensor([0, total - 1])
    logits, deltas = (torch.cat(value, dim=1) for value in rpn(features))
    whole = logits.gather(1, index), deltas.gather(1, index[..., None].expand(-1, -1, 4))
    few = rpn.at(levels_from_maps(features), index)
    for one, other in zip(few, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # both are float32 in the end
    for one, other in zip(gradients(rpn, features, *few), gradients(rpn, features, *whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()) + 1e-6)
