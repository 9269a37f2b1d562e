"""Weights of detectron2's and mmdetection's cascades: every tensor and every setting; no weights lie here."""

import pytest
import torch
from torch import Tensor

from detection.categories import Categories
from detection.convert.classes import transfer_classes
from detection.convert.pretrained import load_pretrained
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig
from detection.models.roi_linear import as_linear


@pytest.fixture(params=["detectron2", pytest.param("mmdetection", marks=pytest.mark.slow)])
def origin(request):
    return request.param


@pytest.fixture
def state_of(request, origin):
    return request.getfixturevalue(f"{origin}_state")


@pytest.mark.parametrize("masks", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_tensor_finds_its_place(origin, state_of, masks, tmp_path):
    state = state_of("50", masks, classes=2, device="cpu", stages=3)
    torch.save({"state_dict": state}, tmp_path / "cascade.pth")
    found = load_pretrained(str(tmp_path / "cascade.pth"))  # its origin shows in its keys
    expected = as_linear(build_detector(2, **vars(found.config)).state_dict())
    assert {k: v.shape for k, v in found.state.items()} == {k: v.shape for k, v in expected.items()}
    settings = ("cell_anchors", "pixel_mean", "pixel_std", "num_batches_tracked")
    assert len(found.state) == len([key for key in state if not any(part in key for part in settings)])
    assert (found.config.mask_head is not None) == masks
    theirs = "roi_heads.box_predictor.{}.cls_score" if origin == "detectron2" else "roi_head.bbox_head.{}.fc_cls"
    first = "roi_heads.box_head.{}.fc1" if origin == "detectron2" else "roi_head.bbox_head.{}.shared_fcs.0"
    for k in range(3):
        assert torch.equal(found.state[f"box_head.stages.{k}.logits.bias"], state[f"{theirs.format(k)}.bias"])
        assert torch.equal(found.state[f"box_head.stages.{k}.fcs.0.weight"], state[f"{first.format(k)}.weight"])
    if masks and origin == "mmdetection":
        theirs = state["roi_head.mask_head.2.convs.3.conv.weight"]
        assert torch.equal(found.state["mask_head.stages.2.convs.6.weight"], theirs)


def test_detectron2s_settings_are_our_defaults(detectron2_state, tmp_path):
    torch.save({"model": detectron2_state(classes=2, device="cpu", stages=3)}, tmp_path / "cascade.pth")
    config = load_pretrained(f"detectron2:{tmp_path / 'cascade.pth'}").config
    assert config.cascade == CascadeConfig()
    assert config.cascade.scale_gradients
    assert config.rpn.proposals_train == 2000
    assert (config.box_head.sampling_ratio, config.box_head.beta) == (0, 0)


def test_mmdetection_averages_logits_and_rounds_the_third_stage(mmdetection_state, tmp_path):
    torch.save({"state_dict": mmdetection_state(classes=2, device="cpu", stages=3)}, tmp_path / "cascade.pth")
    config = load_pretrained(f"mmdetection:{tmp_path / 'cascade.pth'}").config
    assert (config.cascade.average, config.cascade.scale_gradients) == ("logits", False)
    assert config.cascade.weights[2] == pytest.approx((30.303, 30.303, 14.925, 14.925), rel=1e-4)
    assert config.cascade.loss_weights == (1, 0.5, 0.25)
    assert (config.rpn.beta, config.box_head.beta, config.box_head.clamp_both) == (1 / 9, 1, True)


def test_rows_of_every_stage_go_with_the_names():
    theirs, ours = Categories(("cat", "dog"), (1, 2)), Categories(("dog", "emu"), (1, 2))

    def rows(start: float, count: int) -> Tensor:
        return start + torch.arange(count, dtype=torch.float32)

    layers = {"box_head.stages.1.logits": 3, "box_head.stages.1.deltas": 4, "mask_head.stages.2.logits": 2}
    state = {f"{name}.bias": rows(10, count) for name, count in layers.items()}
    initial = {f"{name}.bias": rows(-5, count) for name, count in layers.items()}
    carried, _ = transfer_classes(state, theirs, initial, ours)
    assert carried["box_head.stages.1.logits.bias"].tolist() == [11, -4, 12]  # the background is last
    assert carried["box_head.stages.1.deltas.bias"].tolist() == [10, 11, 12, 13]
    assert carried["mask_head.stages.2.logits.bias"].tolist() == [11, -4]
