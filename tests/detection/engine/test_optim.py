import pytest
import torch
from torch import nn

from detection.engine.optim import OptimizerConfig, build_optimizer, parameter_groups


@pytest.fixture
def model():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    layers[0].weight.requires_grad_(False)
    return layers


@pytest.mark.parametrize(
    ("norms", "biases", "decayed", "others"),
    [
        # learn: conv bias 4; batch norm 4 + 4; group norm 4 + 4; linear weight 8, bias 2
        (False, True, 4 + 8 + 2, 16),
        (False, False, 8, 16 + 4 + 2),
        (True, True, 16 + 4 + 8 + 2, 0),
        (True, False, 16 + 8, 4 + 2),
    ],
)
def test_groups_by_decay(model, norms, biases, decayed, others):
    groups = parameter_groups(model, OptimizerConfig(decay_norms=norms, decay_biases=biases, weight_decay=0.5))
    sizes = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    assert sizes == {0.5: decayed} | ({0.0: others} if others else {})


def test_a_shared_parameter_is_stepped_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    groups = parameter_groups(nn.Sequential(first, second), OptimizerConfig())
    assert sum(len(group["params"]) for group in groups) == 3


def test_sgd_step_by_hand(model):
    optimizer = build_optimizer(model, OptimizerConfig(momentum=0.9, weight_decay=0.1), lr=0.5)
    weight = model[3].weight
    with torch.no_grad():
        weight.fill_(1.0)
    weight.grad = torch.full_like(weight, 2.0)
    optimizer.step()
    # gradient 2 + decay 0.1 * 1 = 2.1; 1 - 0.5 * 2.1 = -0.05
    torch.testing.assert_close(weight.data, torch.full((2, 4), -0.05))


def test_adamw_by_name(model):
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", betas=(0.8, 0.9)), lr=1e-3)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
