"""A PointRend learns drawn images by heart."""

from functools import partial
from pathlib import Path

import pytest

from backbones import BackboneConfig
from detection.coco.annotations import load_annotations
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.detector import Detector
from detection.models.fpn import FPNConfig
from detection.models.point_head import PointHeadConfig
from detection.models.rpn import RPNConfig
from detection.shapes import write_shapes
from tests.end_to_end.test_overfit import overfit

POINTS = PointHeadConfig(channels=64, hidden=256, layer_channels=64)
STEPS = 300


def small(classes: int, **head: object) -> Detector:
    return build_detector(
        classes,
        BackboneConfig("resnet18", norm="group", width=32),
        FPNConfig(channels=64),
        RPNConfig(AnchorConfig((12, 24, 48, 96, 192)), pre_nms_train=200, proposals_train=100, samples=64),
        BoxHeadConfig(hidden=128, samples=64),
        **head,
    )


def learned(folder: Path, **head: object) -> dict[str, float]:
    write_shapes(folder, 4, 1, size=128)
    annotations = load_annotations(folder / "annotations/instances_train.json", need_masks=True)
    data = CocoDataset(annotations, folder / "train", [Resize(160, 224)], masks=True)
    return overfit(partial(small, **head), data, list(range(4)), steps=STEPS, lr=1e-3, bf16=False)


@pytest.mark.slow
def test_four_drawn_images(tmp_path):
    metrics = learned(tmp_path, point_head=POINTS)
    assert metrics["bbox/AP50"] >= 0.95
    assert metrics["segm/AP75"] >= 0.95
