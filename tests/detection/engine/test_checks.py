from types import SimpleNamespace

import pytest

from backbones import BackboneConfig
from detection.categories import Categories
from detection.engine.checks import check_categories, check_random_start, outline, random_start
from detection.models.anchors import AnchorConfig
from detection.models.fcos import FCOSConfig
from detection.models.mask_forms import loss_names
from detection.models.mask_head import MaskHeadConfig
from detection.models.rpn import RPNConfig

ANIMALS = Categories(("cat", "dog"), (1, 7))


def test_the_same_classes_pass():
    check_categories({"names": ["dog", "cat"], "ids": [7, 1]}, ANIMALS)
    check_categories(None, ANIMALS)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (["cat", "bird"], [1, 7], "id 7: bird in the checkpoint, dog in the annotations$"),
        (["cat", "dog", "cow"], [1, 7, 9], "id 9: cow in the checkpoint, none in the annotations$"),
    ],
)
def test_other_classes_are_named(names, ids, message):
    with pytest.raises(ValueError, match=message):
        check_categories({"names": names, "ids": ids}, ANIMALS)


@pytest.mark.parametrize(
    ("norm", "freeze", "named"),
    [
        ("frozen", 0, "norm frozen would"),
        ("group", 2, "freeze 2 would"),
        ("batch", ("stem",), r"freeze \('stem',\) would"),
        ("frozen", 2, "norm frozen and freeze 2 would"),
    ],
)
def test_frozen_parts_without_weights_are_named(norm, freeze, named):
    with pytest.raises(AssertionError, match=f"{named}.*--model.backbone.norm group --model.backbone.freeze 0"):
        raise AssertionError(random_start(BackboneConfig("resnet18", norm=norm, freeze=freeze)))
    assert random_start(BackboneConfig("resnet18", "imagenet", norm, freeze=freeze)) is None


@pytest.mark.parametrize("norm", ["batch", "sync", "group"])
def test_a_network_that_learns_all_of_it_needs_no_weights(norm):
    assert random_start(BackboneConfig("resnet18", norm=norm)) is None


def start(backbone, weights=None, ckpt_path=None):
    return {"ckpt_path": ckpt_path}.get, SimpleNamespace(backbone=backbone, weights=weights)


@pytest.mark.parametrize(
    ("name", "weights", "ckpt_path", "outcome"),
    [
        ("resnet18", None, None, "rejected"),
        ("timm/resnet18.a1_in1k", None, None, "rejected"),
        ("my_lab.nets.SpineNet", None, None, "warned"),  # it may bring weights of its own
        ("resnet18", "torchvision:maskrcnn_resnet50_fpn", None, "fine"),
        ("resnet18", None, "last.ckpt", "fine"),
    ],
)
def test_a_start_behind_random_frozen_parts_is_rejected_unless_weights_come_from_elsewhere(
    name, weights, ckpt_path, outcome
):
    get, model = start(BackboneConfig(name, norm="frozen", freeze=2), weights, ckpt_path)
    config = SimpleNamespace(get=get, model=model)
    if outcome == "rejected":
        with pytest.raises(ValueError, match="would keep random values"):
            check_random_start(config)
    else:
        assert (check_random_start(config) is not None) == (outcome == "warned")


def test_the_outline_of_a_detector_has_its_heads_without_values():
    model = outline({"backbone": BackboneConfig("resnet50", weights="imagenet"), "fcos": FCOSConfig()})
    assert loss_names(model) == ["loss_cls", "loss_box_reg", "loss_centreness"]
    assert {value.device.type for value in model.parameters()} == {"meta"}


def test_a_resnet_stands_for_a_backbone_of_the_user():
    backbone = BackboneConfig("no.such.Module", freeze=("my_stage",))
    assert loss_names(outline({"backbone": backbone, "mask_head": MaskHeadConfig()}))[-1] == "loss_mask"
    three_levels = RPNConfig(AnchorConfig(sizes=(8, 16, 32)))
    assert outline({"backbone": backbone, "rpn": three_levels}) is None
