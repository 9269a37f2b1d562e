"""A folded copy against the model itself."""

import pytest
import torch
from torch import nn

from backbones import BackboneConfig
from backbones.norms import FrozenBatchNorm2d
from detection import fast
from detection.fast.folding import folded
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig

NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.GroupNorm)


def detector(norm: str, name: str = "resnet10"):
    torch.manual_seed(0)
    model = build_detector(
        3,
        BackboneConfig(name, norm=norm),
        FPNConfig(channels=16),
        box_head=BoxHeadConfig(hidden=32, score_threshold=0.0, detections=10),
        mask_head=MaskHeadConfig(convs=1, channels=16),
    )
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return fast.convert(model.to(memory_format=torch.channels_last)).eval()


@pytest.mark.parametrize(
    ("norm", "name", "left"),
    [("frozen", "resnet10", 0), ("batch", "resnet10", 0), ("group", "resnet10", 12), ("batch", "mobilenet_v2", 52)],
)
def test_it_finds_the_same_to_the_last_bit(norm, name, left):
    model = detector(norm, name)
    images, sizes = torch.randint(0, 255, (2, 3, 64, 96), dtype=torch.uint8), torch.tensor([[64, 96], [60, 80]])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected, found = model(images, sizes), folded(model)(images, sizes)
    assert (expected.labels >= 0).any()
    assert all(torch.equal(*pair) for pair in zip(expected[:4], found[:4], strict=True))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())  # left alone
    norms = [
        m for m in folded(model).backbone.modules() if "Norm" in type(m).__name__ and "Activ" not in type(m).__name__
    ]
    assert len(norms) == left


def test_no_weight_is_left_to_cast():
    types = {name: p.dtype for name, p in folded(detector("frozen")).named_parameters() if name.endswith("weight")}
    assert set(types.values()) == {torch.bfloat16}


def test_a_norm_that_still_learns_is_not_folded():
    model = detector("batch").train()
    assert all(type(m).__name__ != "Identity" for m in folded(model).backbone.modules())
