"""A Cascade Mask R-CNN learns: ten real images by heart, and drawn shapes beside a Mask R-CNN on the same images."""

from functools import partial

import pytest

from detection.coco.annotations import load_annotations
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.models.cascade import CascadeConfig
from tests.end_to_end.test_overfit import learnable, mask_rcnn, overfit


@pytest.mark.slow
def test_a_cascade_learns_ten_real_images(shared_data):
    folder = shared_data / "coco_mini"
    annotations = load_annotations(folder / "annotations/instances_val2017.json", need_masks=True)
    data = CocoDataset(annotations, folder / "val2017", [Resize(224, 384)], masks=True)
    images = [i for i in range(len(data)) if learnable(annotations, i)][:10]
    metrics = overfit(partial(mask_rcnn, cascade=CascadeConfig()), data, images, bf16=False)
    assert metrics["bbox/AP50"] >= 0.95
    assert metrics["segm/AP50"] >= 0.95
