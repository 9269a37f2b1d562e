import numpy as np
import pytest
import torch

from backbones import BackboneConfig
from detection.categories import Categories
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig


@pytest.fixture(scope="session")
def tiny_model():
    torch.manual_seed(0)
    detector = build_detector(
        2,
        BackboneConfig("resnet10"),
        FPNConfig(channels=16),
        None,
        BoxHeadConfig(hidden=16, score_threshold=0.0, detections=5),
        MaskHeadConfig(convs=1, channels=8),
    ).eval()
    detector.categories, detector.test_size = Categories(("cat", "dog"), (3, 9)), (64, 96)
    return detector


@pytest.fixture(scope="session")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)
