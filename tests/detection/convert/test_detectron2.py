"""detectron2's zoo: names, shapes and arithmetic from its documents and the papers; the tests have no real weights."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.resnet import VARIANTS, Bottleneck
from detection.convert.detectron2 import from_detectron2
from detection.convert.pretrained import _detectron2, load_pretrained
from detection.data.transforms import Resize
from detection.models.anchors import Anchors
from detection.models.build import build_detector
from detection.models.roi_linear import as_linear
from detection.ops.boxes import decode


@pytest.mark.parametrize(
    ("depth", "name", "masks"),
    [
        ("50", "resnet50", True),
        ("50", "resnet50", False),
        ("101", "resnet101", True),
        ("X101", "resnext101_32x8d", True),
    ],
)
def test_every_key_is_consumed_and_none_invented(detectron2_state, depth, name, masks):
    state = detectron2_state(depth, masks)
    found = _detectron2("detectron2:x", state, rgb=False)
    with torch.device("meta"):
        expected = as_linear(build_detector(80, **vars(found.config)).state_dict())
    assert {k: v.shape for k, v in found.state.items()} == {k: v.shape for k, v in expected.items()}
    left_out = 7  # cell_anchors of five levels, pixel_mean, pixel_std: settings, not weights
    assert len(found.state) == len(state) - left_out
    assert found.config.backbone.name == name
    assert (found.config.mask_head is not None) == masks


def test_a_pickle_of_the_zoo_becomes_a_detector(detectron2_state, tmp_path):
    state = detectron2_state(device="cpu")
    content = {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final_f10217.pkl").write_bytes(pickle.dumps(content))
    found = load_pretrained(str(tmp_path / "model_final_f10217.pkl"))  # its origin shows in its keys
    model = found.build()
    assert model.num_classes == len(model.categories) == 80
    assert (model.categories.names[0], model.categories.ids[-1]) == ("person", 90)
    assert (model.test_size, model.resize) == ((800, 1333), "pillow")
    weights = model.state_dict()
    theirs = state["backbone.bottom_up.res3.0.shortcut.norm.running_var"]
    assert torch.equal(weights["backbone.layer2.0.downsample.1.running_var"], theirs)
    assert torch.equal(weights["mask_head.upsample.weight"], state["roi_heads.mask_head.deconv.weight"])


def test_input_is_turned_from_bgr():
    kernel = torch.arange(3.0).view(1, 3, 1, 1).expand(64, 3, 7, 7)  # blue 0, green 1, red 2
    state = {"backbone.bottom_up.stem.conv1.weight": kernel}
    assert from_detectron2(state)["backbone.conv1.weight"][0, :, 0, 0].tolist() == [2, 1, 0]
    assert from_detectron2(state, rgb=True)["backbone.conv1.weight"][0, :, 0, 0].tolist() == [0, 1, 2]


def test_msra_backbones_subtract_a_mean_and_stride_early(detectron2_state):
    zoo = _detectron2("x", detectron2_state("50"), rgb=False).config.backbone
    assert zoo.mean == (123.675, 116.28, 103.53)  # red, green, blue
    assert zoo.std == (1, 1, 1)
    block = Bottleneck(256, 128, VARIANTS["resnet50"], stride=2, stride_in_1x1=zoo.stride_in_1x1)
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    resnext = _detectron2("x", detectron2_state("X101"), rgb=False).config.backbone
    assert resnext.std == (58.395, 57.12, 57.375)
    assert not resnext.stride_in_1x1
    assert not _detectron2("x", detectron2_state("50"), rgb=True).config.backbone.stride_in_1x1


def test_roi_align_takes_as_many_samples_as_the_box_is_large(detectron2_state):
    config = _detectron2("x", detectron2_state(), rgb=False).config
    assert (config.box_head.sampling_ratio, config.box_head.aligned) == (0, True)
    assert (config.mask_head.sampling_ratio, config.mask_head.aligned) == (0, True)


def test_anchors_stand_at_multiples_of_the_stride(detectron2_state):
    config = _detectron2("x", detectron2_state(), rgb=False).config.rpn.anchors
    grids = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    level = Anchors((4, 8, 16, 32, 64), config)((64, 64), grids, torch.device("cpu")).boxes
    # Ratio 1/2 is height over width: width 32 * sqrt(2), height 32 / sqrt(2), unrounded, around (0, 0); then ratio 1.
    w, h = 16 * math.sqrt(2), 16 / math.sqrt(2)
    assert level[0].tolist() == pytest.approx([-w, -h, w, h], rel=1e-6)
    assert level[1].tolist() == [-16, -16, 16, 16]
    assert level[3 + 1].tolist() == [-16 + 4, -16, 16 + 4, 16]  # the next cell is 4 pixels to the right


def test_boxes_are_coded_without_a_legacy_pixel():
    # Anchor 0..10: width 10 and centre 5, not 11 and 5.5. dx 0.1 moves by 1, dw log 2 doubles.
    box = decode(torch.tensor([1.0, 0, 5 * math.log(2), 0]), torch.tensor([0.0, 0, 10, 10]), (10, 10, 5, 5))
    assert box.tolist() == pytest.approx([-4, 0, 16, 10], abs=1e-5)


def test_growth_is_limited_and_shrinking_is_not():
    anchor = torch.tensor([0.0, 0, 16, 16])
    grown = decode(torch.tensor([0.0, 0, 9, 9]), anchor)
    assert (grown[2] - grown[0]).item() == pytest.approx(1000, rel=1e-5)  # exp is clamped to 1000 / 16
    shrunk = decode(torch.tensor([0.0, 0, -9, -9]), anchor)
    assert (shrunk[2] - shrunk[0]).item() == pytest.approx(16 * math.exp(-9), rel=1e-2)


def test_sizes_are_rounded_half_up_and_pixels_are_pillows():
    image = np.random.default_rng(0).integers(0, 255, (320, 425, 3), np.uint8)
    resized = Resize(800, 1333, "pillow").image(image)
    # 425 * 800 / 320 = 1062.5, which detectron2 makes int(1062.5 + 0.5).
    assert resized.shape == (800, 1063, 3)
    expected = np.asarray(Image.fromarray(image).resize((1063, 800), Image.Resampling.BILINEAR))
    assert np.array_equal(resized, expected)


def test_another_model_of_detectron2_is_rejected():
    with pytest.raises(ValueError, match=r"detectron2 weights: roi_heads\.res5\.0\.conv1\.weight do not belong to"):
        from_detectron2({"roi_heads.res5.0.conv1.weight": torch.zeros(1)})
