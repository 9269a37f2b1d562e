"""Losses of dense predictions, compared with torchvision's and with calculated values."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detection.ops.losses import focal_loss, giou_loss


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, 5, generator=generator) * 4
    return logits, torch.randint(-1, 6, (2, 50), generator=generator)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 1.5)])
def test_focal_loss_is_torchvisions(scored, alpha, gamma):
    logits, labels = scored
    targets = F.one_hot(labels.clamp(min=0), 6)[..., :5].float()
    expected = sigmoid_focal_loss(logits, targets, alpha, gamma).sum(dim=-1).masked_fill(labels < 0, 0)
    torch.testing.assert_close(focal_loss(logits, labels, alpha, gamma), expected)


def test_the_gradient_of_the_focal_loss_is_torchvisions(scored):
    logits, labels = (x.clone() for x in scored)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    focal_loss(ours, labels).sum().backward()
    targets = F.one_hot(labels.clamp(min=0), 6)[..., :5].float()
    sigmoid_focal_loss(theirs, targets).sum(dim=-1).masked_fill(labels < 0, 0).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_focal_loss_by_hand():
    # p = 0.9 of the own class and 0.2 of the other one: 0.25 * 0.1^2 * -ln 0.9 + 0.75 * 0.2^2 * -ln 0.8.
    logits = torch.tensor([math.log(0.9 / 0.1), math.log(0.2 / 0.8)])
    expected = 0.25 * 0.01 * -math.log(0.9) + 0.75 * 0.04 * -math.log(0.8)
    assert focal_loss(logits, torch.tensor(0)).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_is_finite_at_extreme_logits():
    logits = torch.tensor([[300.0, -300.0]], requires_grad=True)
    for label in (0, 1, 2):
        loss = focal_loss(logits, torch.tensor([label])).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_giou_loss_is_torchvisions():
    corners = torch.rand(200, 2, 2, 2, generator=torch.Generator().manual_seed(0)) * 50
    boxes, truth = corners.sort(dim=2).values.flatten(2).unbind(1)
    ours, theirs = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()
    torch.testing.assert_close(giou_loss(ours, truth), generalized_box_iou_loss(theirs, truth))
    giou_loss(ours, truth).sum().backward()
    generalized_box_iou_loss(theirs, truth, reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_giou_loss_by_hand():
    # IoU of 1 / 7, a hull of 9 of which the union covers 7.
    boxes, truth = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert giou_loss(boxes, truth).item() == pytest.approx(1 - 1 / 7 + 2 / 9, rel=1e-5)
    assert giou_loss(truth, truth).item() == pytest.approx(0, abs=1e-6)


def test_boxes_without_area_have_a_finite_loss_and_gradient():
    boxes = torch.zeros(2, 4, requires_grad=True)
    loss = giou_loss(boxes, torch.tensor([[0.0, 0, 0, 0], [1, 1, 5, 5]]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert boxes.grad.isfinite().all()


def test_the_defaults_are_those_of_retinanet(scored):
    assert torch.equal(focal_loss(*scored), focal_loss(*scored, alpha=0.25, gamma=2.0))


def test_a_small_number_is_added_to_both_areas_of_the_giou():
    boxes, truth = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert giou_loss(boxes, truth, eps=1.0).item() == pytest.approx(1 - 1 / 8 + 2 / 10)
    nothing = torch.zeros(4)
    assert giou_loss(nothing, nothing).item() == 1
    assert giou_loss(boxes, truth, eps=1e-7).item() == giou_loss(boxes, truth).item()
