"""Backbones of every family inside Mask R-CNN."""

import pytest
import torch

from backbones import BackboneConfig
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig


def detector(config):
    torch.manual_seed(0)
    return build_detector(
        3,
        config,
        FPNConfig(channels=16),
        RPNConfig(AnchorConfig(sizes=(8, 16, 32, 64, 128)), proposals_train=60, proposals_test=40, samples=64),
        BoxHeadConfig(hidden=32, samples=32, detections=10),
        MaskHeadConfig(convs=1, channels=16),
    )


@pytest.mark.parametrize(
    "name",
    [
        "plain18",
        "mobilenet_v3_small",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("densenet121", "regnet_y_400mf", "swin_t")),
    ],
)
def test_every_trainable_parameter_gets_a_gradient(name, make_batch):
    model = detector(BackboneConfig(name)).train()
    losses = model.losses(make_batch([[([10, 10, 60, 60], 0, False)], [([30, 20, 100, 80], 2, False)]]))
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_normalising_follows_the_number_of_channels(make_batch):
    batch = make_batch([[([10, 10, 60, 60], 0, False)]])
    images = batch.images[:, [0, 1, 2, 0, 1]]
    model = detector(BackboneConfig("resnet18", in_channels=5))
    losses = model.losses(batch._replace(images=images))
    assert all(loss.isfinite() for loss in losses.values())
    assert model.pixel_mean.shape == (5, 1, 1)
    with torch.device("meta"):
        detector(BackboneConfig("regnet_y_400mf", in_channels=5))  # how a config is checked
