"""Backbones of all families in Mask R-CNN: a training step, and saving and loading."""

import pytest
import torch

from backbones import BackboneConfig
from detection import fast
from detection.categories import Categories
from detection.checkpoint import save_model
from detection.convert.export import save_safetensors
from detection.inference import load_model
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig
from detection.structures import IGNORE, Batch, Targets
from tests.support.matrix import NAMES

QUICK = ("resnet10",)
EXPORTED = ("resnet10", "mobilenet_v3_small", "swin_t", "vit_b_16", "timm/convnextv2_atto", "timm/vit_tiny_patch16_224")


def configs(name):
    return {
        "backbone": BackboneConfig(name),
        "fpn": FPNConfig(channels=16),
        "rpn": RPNConfig(AnchorConfig(sizes=(8, 16, 32, 64, 128)), proposals_train=60, proposals_test=40, samples=64),
        "box_head": BoxHeadConfig(hidden=32, samples=32, detections=10, score_threshold=0.0),
        "mask_head": MaskHeadConfig(convs=1, channels=16),
    }


def detector(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return build_detector(3, **configs(name))


def batch():
    """Two noisy images with an object each; the canvas is a multiple of 32, as everywhere, the images are not."""
    sizes = torch.tensor([[70, 101], [96, 128]])
    boxes, labels = torch.zeros(2, 16, 4), torch.full((2, 16), IGNORE)
    boxes[0, 0], boxes[1, 0] = torch.tensor([10.0, 10, 60, 60]), torch.tensor([30.0, 20, 100, 80])
    labels[:, 0] = torch.tensor([0, 2])
    masks = torch.zeros(2, 16, 112, 112, dtype=torch.uint8)
    masks[:, 0] = 1
    images = torch.randint(0, 255, (2, 3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = Targets(boxes, labels, torch.zeros(2, 16, dtype=torch.bool), masks)
    return Batch(images, sizes, sizes, torch.arange(2), targets)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_training_step_is_finite_and_reaches_every_parameter(name):
    model = detector(name).train()
    losses = model.losses(batch(), generator=torch.Generator().manual_seed(0))
    total = sum(losses.values())
    assert total.isfinite(), losses
    total.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXPORTED])
@torch.no_grad()
def test_a_file_gives_the_detector_back(name, tmp_path):
    model = fast.convert(detector(name)).eval()
    model.categories, model.test_size = Categories(("cat", "dog", "bird"), (2, 5, 90)), (96, 128)
    save_model(model, tmp_path / "m.ckpt")
    save_safetensors(model, tmp_path / "m.safetensors")
    images, sizes = batch()[:2]
    wanted = model(images, sizes)
    for file in ("m.ckpt", "m.safetensors"):
        for ours, theirs in zip(load_model(tmp_path / file)(images, sizes)[:4], wanted[:4], strict=True):
            assert torch.equal(ours, theirs)
