"""mmdetection 3.x: names, shapes and arithmetic from its configs and the papers; the tests have no real weights."""

import math

import cv2
import numpy as np
import pytest
import torch

from detection.convert.mmdetection import from_mmdetection
from detection.convert.pretrained import _mmdetection, load_pretrained
from detection.data.transforms import Resize
from detection.models.build import build_detector
from detection.models.roi_linear import as_linear
from detection.ops.boxes import decode


@pytest.mark.parametrize(("depth", "name"), [("50", "resnet50"), ("101", "resnet101")])
@pytest.mark.parametrize("masks", [True, False])
def test_every_key_is_consumed_and_none_invented(mmdetection_state, depth, name, masks):
    state = mmdetection_state(depth, masks)
    found = _mmdetection("mmdetection:x", state, {}, caffe=False)
    with torch.device("meta"):
        expected = as_linear(build_detector(80, **vars(found.config)).state_dict())
    assert {k: v.shape for k, v in found.state.items()} == {k: v.shape for k, v in expected.items()}
    counters = sum(key.endswith("num_batches_tracked") for key in state)  # of norms that are frozen here
    assert len(found.state) == len(state) - counters
    assert (found.config.backbone.name, found.config.mask_head is not None) == (name, masks)


@pytest.mark.slow
def test_a_file_with_its_classes_becomes_a_detector(mmdetection_state, tmp_path):
    state = mmdetection_state(classes=2, masks=False, device="cpu")
    torch.save({"meta": {"CLASSES": ("cat", "dog"), "epoch": 12}, "state_dict": state}, tmp_path / "epoch_12.pth")
    model = load_pretrained(f"mmdetection:{tmp_path / 'epoch_12.pth'}").build()
    assert model.categories.names == ("cat", "dog")
    assert (model.test_size, model.resize) == ((800, 1333), "bilinear")
    theirs = state["roi_head.bbox_head.fc_cls.bias"]
    assert torch.equal(model.box_head.logits.bias, theirs)  # background last, there and here


def test_styles_differ_in_input_and_stride(mmdetection_state):
    state = mmdetection_state(masks=False)
    pytorch = _mmdetection("x", state, {}, caffe=False).config.backbone
    caffe = _mmdetection("x", state, {}, caffe=True).config.backbone
    assert (pytorch.stride_in_1x1, pytorch.std) == (False, (58.395, 57.12, 57.375))
    assert (caffe.stride_in_1x1, caffe.mean, caffe.std) == (True, (123.675, 116.28, 103.53), (1, 1, 1))
    kernel = {"backbone.conv1.weight": torch.arange(3.0).view(1, 3, 1, 1)}
    assert from_mmdetection(kernel)["backbone.conv1.weight"].flatten().tolist() == [0, 1, 2]
    assert from_mmdetection(kernel, "caffe")["backbone.conv1.weight"].flatten().tolist() == [2, 1, 0]


def test_caffe_shows_in_the_name_of_the_file(mmdetection_state, tmp_path):
    torch.save({"state_dict": mmdetection_state(masks=False, device="cpu")}, tmp_path / "faster_rcnn_r50_caffe_fpn.pth")
    assert load_pretrained(str(tmp_path / "faster_rcnn_r50_caffe_fpn.pth")).config.backbone.stride_in_1x1


def test_shrinking_is_limited_like_growth(mmdetection_state):
    config = _mmdetection("x", mmdetection_state(), {}, caffe=False).config
    assert config.rpn.clamp_both
    assert config.box_head.clamp_both
    deltas, anchor = torch.tensor([0.0, 0, -9, 9]), torch.tensor([0.0, 0, 1000, 16])
    box = decode(deltas, anchor, clamp_both=True)
    # wh_ratio_clip = 16 / 1000 bounds both: 1000 * 16 / 1000 = 16, and 16 * 1000 / 16 = 1000.
    assert (box[2] - box[0]).item() == pytest.approx(16, rel=1e-4)
    assert (box[3] - box[1]).item() == pytest.approx(1000, rel=1e-5)
    free = decode(deltas, anchor)
    assert (free[2] - free[0]).item() == pytest.approx(1000 * math.exp(-9), rel=1e-2)


def test_images_are_resized_by_opencv_without_a_filter():
    image = np.random.default_rng(0).integers(0, 255, (2000, 3000, 3), np.uint8)
    # min(1333 / 3000, 800 / 2000) = 0.4: (1200, 800).
    expected = cv2.resize(image, (1200, 800), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(Resize(800, 1333, "bilinear").image(image), expected)
