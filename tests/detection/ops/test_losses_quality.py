"""Quality focal loss and distribution focal loss beside their formulas."""

import pytest
import torch
import torch.nn.functional as F

from detection.ops.losses import distribution_focal_loss, quality_focal_loss


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_quality_focal_loss_equals_its_formula(gamma):
    torch.manual_seed(0)
    logits = torch.randn(40, 4, dtype=torch.float64, requires_grad=True)
    labels, quality = torch.randint(-1, 5, (40,)), torch.rand(40, dtype=torch.float64)
    target = torch.zeros_like(logits)
    for i, label in enumerate(labels.tolist()):
        if 0 <= label < 4:
            target[i, label] = quality[i]
    p = logits.sigmoid()
    expected = ((target - p).abs() ** gamma * F.binary_cross_entropy(p, target, reduction="none")).sum(1)
    expected = expected * (labels >= 0)
    found = quality_focal_loss(logits, labels, quality, gamma)
    assert torch.allclose(found, expected)
    (slope,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    assert torch.allclose(slope, wanted)


def test_distribution_focal_loss_equals_its_formula():
    torch.manual_seed(0)
    logits = torch.randn(50, 6, dtype=torch.float64)
    distances = torch.rand(50, dtype=torch.float64) * 5
    p = logits.softmax(dim=1)
    expected = []
    for row, d in zip(p, distances.tolist(), strict=True):
        low = int(d)
        expected.append(-((low + 1 - d) * row[low].log() + (d - low) * row[low + 1].log()))
    assert torch.allclose(distribution_focal_loss(logits, distances), torch.stack(expected))


@pytest.mark.parametrize(("distance", "place"), [(-3.0, 0), (0.0, 0), (2.0, 2), (5.0, 5), (9.0, 5)])
def test_whole_and_outside_distances_have_one_place(distance, place):
    logits = torch.arange(6.0)
    found = distribution_focal_loss(logits, torch.tensor(distance))
    assert found == pytest.approx(float(-logits.log_softmax(0)[place]), abs=1e-6)


def test_the_defaults_are_those_of_the_papers():
    logits, labels, quality = torch.tensor([[0.3, -2.0]]), torch.tensor([0]), torch.tensor([0.9])
    assert torch.equal(quality_focal_loss(logits, labels, quality), quality_focal_loss(logits, labels, quality, 2.0))
