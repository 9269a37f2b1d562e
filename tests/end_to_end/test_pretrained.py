"""A torchvision detector's file, loaded by its path, gives torchvision's answers on files of images.

From decoding to boxes in the image's own pixels, preprocessing included; the weights are random, prepared as in
``test_torchvision``, since no trained ones lie here.
"""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from detection.convert.pretrained import load_pretrained
from detection.data.dataset import read_image
from detection.inference import predict
from detection.models.rcnn import FasterRCNN

sys.path.insert(0, str(Path(__file__).parent))
from test_torchvision import ROOT, prepare

SIZE = {"min_size": 200, "max_size": 320}
SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
LAYOUTS = [
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
]


def image_files(folder: Path) -> list[Path]:
    """Three COCO images, or drawn ones where COCO is missing."""
    files = sorted((ROOT.parent / "shared/data/coco_mini/val2017").glob("*.jpg"))[:3]
    if len(files) == 3:
        return files
    noise = np.random.default_rng(0)
    for i, (height, width) in enumerate([(480, 640), (640, 427), (333, 500)]):
        drawn = cv2.resize(noise.integers(0, 255, (24, 32, 3), np.uint8), (width, height))
        cv2.imwrite(str(folder / f"{i}.png"), drawn)
    return sorted(folder.glob("*.png"))


def as_theirs(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path)).permute(2, 0, 1).float() / 255


def check(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    paths = image_files(folder)
    # Half of the mobile models' few proposals must pass for 100 detections, so that none may be suppressed.
    options = SIZE | ({"box_nms_thresh": 0.99, "box_score_thresh": 0.01} if "mobilenet" in kind else {})
    theirs = getattr(torchvision.models.detection, kind)(weights=None, weights_backbone=None, num_classes=21, **options)
    # torchvision normalises before it resizes, ours after: 1e-7 apart, which an untrained network makes a thousand
    # times larger, and the more so the steeper its scores are.
    prepare(theirs, [as_theirs(path) for path in paths], confidence=1.0)
    torch.save(theirs.state_dict(), folder / f"{kind}.pth")
    ours = load_pretrained(f"torchvision:{folder / kind}.pth").build()
    ours.test_size = (SIZE["min_size"], SIZE["max_size"])
    if "mobilenet" in kind:
        ours.box_head.config = replace(ours.box_head.config, nms_threshold=0.99, score_threshold=0.01)
    for path in paths:
        compare(theirs, ours, path)


def compare(theirs: nn.Module, ours: FasterRCNN, path: Path) -> None:
    with torch.no_grad():
        expected = theirs([as_theirs(path)])[0]
    found = predict(ours, path, score_threshold=0)
    assert len(expected["scores"]) == len(found) == 100
    distance = np.abs(found.boxes - expected["boxes"].numpy()[:, None]).max(axis=2)
    # By class and place: two scores that differ by rounding alone may change places.
    distance[found.labels != expected["labels"].numpy()[:, None] - 1] = np.inf
    same = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 0.01
    assert len(set(same)) == 100
    assert np.abs(found.scores[same] - expected["scores"].numpy()).max() < 1e-4
    if found.masks is not None:
        probability = expected["masks"][:, 0].numpy()
        sure = np.abs(probability - 0.5) > 1e-4  # closer ones may fall on either side
        agree = found.masks[same] == (probability > 0.5)
        assert agree[sure].mean() > 0.9999


@pytest.mark.slow
def test_the_smallest_layout_agrees(tmp_path):
    check(SMALL, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_other_layouts_agree(kind, tmp_path):
    check(kind, tmp_path)
