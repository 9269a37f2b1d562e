"""Replaced layers and layers with hooks are called; the faster code computes all others itself."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from backbones import BackboneConfig
from backbones.norms import FrozenBatchNorm2d
from detection import fast
from detection.models.box_head import BoxHeadConfig, RoILinear
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig
from tests.support.detectors import make_points

OBJECT = ([10.0, 10, 60, 60], 1, False)
KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, RoILinear, nn.GroupNorm, nn.BatchNorm2d, FrozenBatchNorm2d)


class Doubled(nn.Conv2d):
    """A custom convolution: it is not what its weights say."""

    def forward(self, x):
        return 2 * super().forward(x)


def make(norm="frozen", fpn_norm=None, box_convs=1):
    torch.manual_seed(0)
    model = build_detector(
        3,
        BackboneConfig("resnet18", norm=norm, freeze=(), width=16),
        FPNConfig(channels=16, norm=fpn_norm),
        RPNConfig(proposals_train=60, proposals_test=40, samples=64),
        BoxHeadConfig(hidden=32, convs=box_convs, samples=32, score_threshold=0.0, detections=10),
        MaskHeadConfig(convs=1, channels=16),
    )
    return fast.convert(model)


def step(model, batch):
    """Losses, gradients and detections."""
    losses = model.train().losses(batch, generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        found = model.eval()(batch.images, batch.sizes)
    return losses, gradients, found[:4]


@pytest.mark.parametrize(("norm", "fpn_norm"), [("frozen", None), ("batch", None), ("frozen", "group")])
def test_every_layer_with_a_hook_is_called_and_nothing_else_changes(make_batch, norm, fpn_norm):
    model, batch = make(norm, fpn_norm), make_batch([[OBJECT]])
    hooked, called = copy.deepcopy(model), set()
    layers = {name for name, part in hooked.named_modules() if isinstance(part, KINDS)}
    for name in layers:
        hooked.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    probed = copy.deepcopy(hooked)
    probed.train().losses(batch)
    assert called == layers
    called.clear()
    with torch.no_grad():
        probed.eval()(batch.images, batch.sizes)
    assert called == layers
    for one, other in zip(step(model, batch), step(hooked, batch), strict=True):
        ones, others = (x.values() if isinstance(x, dict) else x for x in (one, other))
        for a, b in zip(ones, others, strict=True):
            torch.testing.assert_close(a.float(), b.float(), rtol=1e-3, atol=1e-4)


def replace(model, name):
    owner, _, leaf = name.rpartition(".")
    plain = model.get_submodule(name)
    mine = Doubled(
        plain.in_channels,
        plain.out_channels,
        plain.kernel_size,
        plain.stride,
        plain.padding,
        bias=plain.bias is not None,
    )
    mine.load_state_dict({key: value / 2 for key, value in plain.state_dict().items()})
    setattr(model.get_submodule(owner), leaf, mine)


def test_custom_convolutions_compute_what_they_say(make_batch):
    model, batch = make(), make_batch([[OBJECT]])
    mine = copy.deepcopy(model)
    names = ["backbone.layer1.0.conv1", "backbone.layer2.0.downsample.0", "fpn.lateral.0.0", "fpn.output.0.0"]
    names += ["rpn.convs.0", "rpn.objectness", "box_head.convs.0", "mask_head.convs.0", "mask_head.logits"]
    for name in names:
        replace(mine, name)
    losses, _, (_, scores, _, masks) = step(model, batch)
    others, _, (_, same_scores, _, same_masks) = step(mine, batch)
    for name, value in losses.items():
        torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(scores, same_scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masks, same_masks, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_pruned_layers_learn_and_stay_pruned(make_batch, norm):
    model, batch = make(norm), make_batch([[OBJECT]])
    pruned = [model.backbone.layer3[0].conv1, model.rpn.convs[0], model.mask_head.convs[0], model.mask_head.upsample]
    for layer in pruned:
        prune.random_unstructured(layer, "weight", amount=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model.train().losses(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        model.eval()(batch.images, batch.sizes)
    for layer in pruned:
        assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)


def test_layers_before_the_box_head_may_be_any(make_batch):
    model, batch = make(box_convs=0), make_batch([[OBJECT]])
    model.box_head.convs = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Sigmoid())
    assert all(gradient.isfinite().all() for gradient in step(model, batch)[1].values())


@pytest.mark.parametrize("part", ["point", "point.layers.1", "point.logits"])
def test_a_point_head_calls_what_has_a_hook(make_batch, part):
    model, batch, called = fast.convert(make_points()), make_batch([[OBJECT]]), []
    expected = step(model, batch)[0]
    model.point_head.get_submodule(part).register_forward_hook(lambda *_: called.append(part))
    found = step(model, batch)[0]
    assert len(called) == 4  # once in training; three masks, one finer than the other
    torch.testing.assert_close(found, expected)
