"""Which detectors predict masks, and which losses they have."""

from argparse import Namespace

import pytest
import torch

from detection import faster_rcnn, mask_rcnn, task_aligned
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig
from detection.models.fcos import FCOSConfig
from detection.models.mask_forms import has_rounded_frames, loss_names, mask_config, predicts_masks
from detection.models.mask_head import MaskHeadConfig
from detection.models.object_masks import ObjectMaskConfig
from detection.models.point_head import PointHeadConfig
from detection.models.retinanet import RetinaNetConfig, three_scales
from detection.models.semantic_head import SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig
from tests.support.detectors import make_batch, make_keypoints, make_points, make_tiny, with_keypoints


def test_detectors_with_masks_have_a_config_of_them():
    rounded = MaskHeadConfig(rounded_frames=True)
    assert mask_config(faster_rcnn("resnet10", 2)) is None
    assert mask_config(task_aligned("resnet10", 2)) is None
    assert mask_config(mask_rcnn("resnet10", 2, mask_head=rounded)) is rounded
    assert has_rounded_frames(mask_rcnn("resnet10", 2, mask_head=rounded))
    model = task_aligned("resnet10", 2, head=TaskAlignedConfig(masks=True))
    assert mask_config(model) == ObjectMaskConfig()
    assert not has_rounded_frames(model)


@pytest.mark.parametrize(
    ("mask_head", "aligned", "expected"),
    [
        (None, None, False),
        (MaskHeadConfig(), None, True),
        (None, TaskAlignedConfig(), False),
        (None, TaskAlignedConfig(masks=True), True),
        (None, Namespace(class_path="...", init_args=Namespace(masks=True)), True),
        (None, Namespace(class_path="...", init_args=Namespace(masks=False)), False),
    ],
)
def test_settings_say_whether_there_are_masks(mask_head, aligned, expected):
    assert predicts_masks(mask_head, aligned) is expected
    assert predicts_masks(mask_head, aligned, PointHeadConfig()) is True


def tiny(*removed: str, **heads: object):
    """The tiny Mask R-CNN without some of its parts, and with other heads."""
    parts = {name: config for name, config in make_tiny().configs.items() if name not in removed}
    return build_detector(3, **parts, **heads)


BOXES = ("rpn", "box_head", "mask_head", "fpn")


@pytest.mark.parametrize(
    "build",
    [
        make_tiny,
        make_keypoints,
        make_points,
        lambda: tiny("mask_head"),
        lambda: tiny("box_head", cascade=CascadeConfig(), box_head=BoxHeadConfig(hidden=32, samples=32)),
        lambda: tiny("box_head", cascade=CascadeConfig(mask_per_stage=True), box_head=BoxHeadConfig(hidden=32)),
        lambda: tiny(*BOXES, retinanet=RetinaNetConfig(convs=1, anchors=three_scales((12, 24, 48, 96, 192)))),
        lambda: tiny(*BOXES, fcos=FCOSConfig(convs=1)),
        lambda: tiny(*BOXES, task_aligned=TaskAlignedConfig(convs=1)),
        lambda: tiny(*BOXES, task_aligned=TaskAlignedConfig(convs=1, masks=True)),
        lambda: tiny(*BOXES, semantic_head=SemanticHeadConfig(channels=16)),
        lambda: tiny(semantic_head=SemanticHeadConfig(channels=16)),
    ],
)
def test_the_heads_name_the_losses_that_they_return(build):
    batch = with_keypoints(make_batch([[([10.0, 10, 60, 60], 1, False)]]))
    maps = torch.zeros((1, *batch.images.shape[2:]), dtype=torch.uint8)
    batch = batch._replace(targets=batch.targets._replace(semantic=maps))
    model = build()
    assert list(model.losses(batch)) == loss_names(model)
