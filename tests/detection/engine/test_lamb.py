import copy

import pytest
import torch
from torch import nn

from detection.engine.lamb import Lamb
from detection.engine.optim import OptimizerConfig, build_optimizer


def train(optimizer, model, steps=20):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, truth = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)
        optimizer.zero_grad()
        (model(images) - truth).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def groups(model, decay):
    weights, biases = ([p for n, p in model.named_parameters() if n.endswith(kind)] for kind in ("weight", "bias"))
    return [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]


def slow(model, steps, lr, decay, eps=1e-6):
    """Algorithm 2 of the paper for one tensor at a time, without scaling where there is no decay."""
    generator = torch.Generator().manual_seed(1)
    kept = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in model.named_parameters()}
    for step in range(1, steps + 1):
        images, truth = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)
        model.zero_grad()
        (model(images.double()) - truth).square().mean().backward()
        for name, parameter in model.named_parameters():
            mean, square = kept[name]
            mean.mul_(0.9).add_(0.1 * parameter.grad)
            square.mul_(0.999).add_(0.001 * parameter.grad**2)
            update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + eps)
            own = decay if name.endswith("weight") else 0.0
            update = update + own * parameter.detach()
            ratio = float(parameter.detach().norm() / update.norm()) if own else 1.0
            parameter.data -= lr * ratio * update
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_steps_equal_those_of_a_loop(decay):
    model, other = network(), network()

    def inputs(images):
        return nn.Sequential.forward(model, images.double())

    model.forward = inputs
    found = train(Lamb(groups(model, decay), lr=0.01), model)
    for one, two in zip(found, slow(other, 20, 0.01, decay), strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_steps_equal_those_of_timm(decay):
    optim = pytest.importorskip("timm.optim", reason="timm is not installed")
    models = [network().float(), network().float()]
    ours = train(Lamb(groups(models[0], decay), lr=0.01), models[0])
    theirs = train(optim.Lamb(groups(models[1], decay), lr=0.01, max_grad_norm=None), models[1])
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_weight_of_zeros_still_learns():
    model = nn.Linear(5, 3)
    nn.init.zeros_(model.weight)
    train(Lamb(model.parameters(), lr=0.01, weight_decay=0.1), model, 1)
    assert model.weight.abs().min() > 0
    assert model.weight.isfinite().all()


def test_a_parameter_without_gradient_stays():
    model = nn.ModuleDict({"used": nn.Linear(5, 3), "unused": nn.Linear(5, 3)})
    before = copy.deepcopy(model["unused"].state_dict())
    model["used"](torch.ones(1, 5)).sum().backward()
    Lamb(model.parameters()).step()
    assert all(model["unused"].state_dict()[name].equal(value) for name, value in before.items())


def test_a_saved_state_continues_with_the_same_steps():
    whole, first = network().float(), network().float()
    expected = train(Lamb(groups(whole, 0.02), lr=0.01), whole, 12)
    optimizer = Lamb(groups(first, 0.02), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for step in range(12):
        if step == 5:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = Lamb(groups(first, 0.02), lr=0.01)
            optimizer.load_state_dict(saved)
        images, truth = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)
        optimizer.zero_grad()
        (first(images) - truth).square().mean().backward()
        optimizer.step()
    assert all(one.equal(two) for one, two in zip(first.parameters(), expected, strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_training_builds_it(fused):
    optimizer = build_optimizer(network(), OptimizerConfig("lamb", weight_decay=0.02, decay_biases=False), 0.01, fused)
    assert isinstance(optimizer, Lamb)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0]
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_closure_returns_the_loss():
    model = nn.Linear(5, 3)
    optimizer = Lamb(model.parameters())

    def closure():
        loss = model(torch.ones(1, 5)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
