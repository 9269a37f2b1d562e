import pytest
import torch

from backbones import BackboneConfig
from detection.doctor.memory import HEADS, training_bytes
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig


@pytest.mark.parametrize("adam", [False, True])
def test_the_forecast_counts_state_once_and_activations_per_image(adam):
    configs = {"fpn": FPNConfig(channels=64)}
    with torch.device("meta"):
        model = build_detector(2, BackboneConfig("resnet18"), configs["fpn"])
    one, two, larger = (
        training_bytes(model, "resnet18", canvas, images, configs, adam)
        for canvas, images in (((320, 320), 1), ((320, 320), 2), ((640, 640), 1))
    )
    state = (16 if adam else 12) * sum(p.numel() for p in model.parameters())
    assert two - state == pytest.approx(2 * (one - state))
    assert larger - state - HEADS == pytest.approx(4 * (one - state - HEADS), rel=0.02)
