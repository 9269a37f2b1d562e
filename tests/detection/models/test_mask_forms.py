"""Which detectors predict masks."""

from argparse import Namespace

import pytest

from detection import faster_rcnn, mask_rcnn, task_aligned
from detection.models.mask_forms import has_rounded_frames, mask_config, predicts_masks
from detection.models.mask_head import MaskHeadConfig
from detection.models.object_masks import ObjectMaskConfig
from detection.models.task_aligned import TaskAlignedConfig


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
