"""A Keypoint R-CNN learns: two drawn images by heart, and the demo's shapes."""

import numpy as np
import pytest

from backbones import BackboneConfig
from detection.coco.annotations import load_annotations
from detection.commands.main import main
from detection.data.dataset import CocoDataset
from detection.data.flipping import partners
from detection.data.transforms import Resize
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.detector import Detector
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.rpn import RPNConfig
from detection.run_files import evaluations
from detection.shapes import write_shapes
from tests.end_to_end.test_overfit import overfit


def small(classes: int) -> Detector:
    return build_detector(
        classes,
        BackboneConfig("resnet18", norm="group", width=32),
        FPNConfig(channels=64),
        RPNConfig(AnchorConfig((12, 24, 48, 96, 192)), pre_nms_train=200, proposals_train=100, samples=64),
        BoxHeadConfig(hidden=128, samples=64),
        keypoint_head=KeypointHeadConfig(keypoints=5, convs=3, channels=64),
    )


@pytest.mark.slow
def test_two_drawn_images(tmp_path):
    write_shapes(tmp_path, 4, 1, size=96, keypoints=True)
    annotations = load_annotations(tmp_path / "annotations/instances_train.json")
    table = partners(annotations.categories)
    data = CocoDataset(annotations, tmp_path / "train", [Resize(96, 128)], partners=table)
    labelled = [i for i in range(len(data)) if (annotations.keypoints(i)[..., 2] > 0).any()][:2]
    assert len(labelled) == 2
    metrics = overfit(small, data, labelled, steps=200, lr=1e-3, bf16=False)
    assert metrics["bbox/AP50"] >= 0.95
    assert metrics["keypoints/AP50"] >= 0.9
    assert np.isnan(metrics["keypoints/APl"])


@pytest.mark.slow
def test_the_demo_learns_corners(tmp_path):
    assert main(["demo", "--config", "demo_keypoints", "--output", str(tmp_path / "demo")]) == 0
    metrics = evaluations(tmp_path / "demo" / "run")[-1]
    assert metrics["val/keypoints/AP50"] >= 0.5
    assert (tmp_path / "demo" / "predictions.jpg").is_file()
