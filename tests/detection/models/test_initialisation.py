"""How new layers begin: the standard deviations by hand, and the losses of an untrained detector.

The values are those of detectron2, whose rules are Fast R-CNN's (section 3.1), Faster R-CNN's (section 3.1) and, for
the hidden layers, Caffe2's "Xavier" (standard deviation 1 / sqrt(inputs)) and "MSRA" (sqrt(2 / outputs)).
"""

import math

import pytest
import torch
from torch import nn

from backbones import BackboneConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHead, KeypointHeadConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.necks import build_neck
from detection.models.point_head import PointHead, PointHeadConfig
from detection.models.rcnn import FasterRCNN
from detection.models.rpn import RPNConfig

BY_HAND = {
    "backbone.layer1.0.conv1.weight": math.sqrt(2 / (64 * 9)),
    "backbone.layer4.0.conv1.weight": math.sqrt(2 / (512 * 9)),
    "fpn.lateral.0.0.weight": math.sqrt(1 / 64),
    "fpn.lateral.3.0.weight": math.sqrt(1 / 512),
    "fpn.output.0.0.weight": 1 / 48,  # sqrt(1 / (256 * 9))
    "rpn.convs.0.weight": 0.01,
    "rpn.objectness.weight": 0.01,
    "rpn.deltas.weight": 0.01,
    "box_head.fcs.0.weight": 1 / 112,  # sqrt(1 / (256 * 49))
    "box_head.fcs.1.weight": 1 / 32,  # sqrt(1 / 1024)
    "box_head.logits.weight": 0.01,
    "box_head.deltas.weight": 0.001,
    "mask_head.convs.0.weight": math.sqrt(2 / (256 * 9)),
    "mask_head.upsample.weight": math.sqrt(2 / (256 * 4)),
    "mask_head.logits.weight": 0.001,
    "point_head.coarse.shrink.weight": math.sqrt(2 / (256 * 4)),
    "point_head.coarse.fcs.0.weight": 1 / 112,
    "point_head.coarse.fcs.1.weight": 1 / 32,
    "point_head.coarse.logits.weight": 0.001,
    "point_head.point.layers.0.weight": math.sqrt(2 / 256),
    "point_head.point.layers.2.weight": math.sqrt(2 / 256),
    "point_head.point.logits.weight": 0.001,
    "keypoint_head.convs.0.weight": math.sqrt(2 / (512 * 9)),
    "keypoint_head.heatmaps.weight": math.sqrt(2 / (512 * 16)),
}
"""Standard deviations of a ResNet-18-FPN with the papers' widths: 256 channels, 1024 hidden units."""


def untrained(classes: int, seed: int = 0, **rpn: int) -> FasterRCNN:
    torch.manual_seed(seed)
    return build_detector(
        classes,
        BackboneConfig("resnet18", norm="group"),
        FPNConfig(),
        RPNConfig(**rpn),
        BoxHeadConfig(),
        MaskHeadConfig(),
    )


@pytest.fixture(scope="module")
def parameters() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    head = KeypointHead(256, 1, (4, 8, 16, 32), KeypointHeadConfig())
    own = {f"keypoint_head.{name}": value.detach() for name, value in head.named_parameters()}
    points = PointHead(256, 80, (4, 8, 16, 32), PointHeadConfig())
    own |= {f"point_head.{name}": value.detach() for name, value in points.named_parameters()}
    return own | {name: value.detach() for name, value in untrained(80).named_parameters()}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_new_layer_has_the_spread_of_its_rule(parameters, name):
    weight = parameters[name]
    # Of n values the standard deviation itself varies by 1 / sqrt(2 n); five times that is a miracle.
    assert weight.std().item() == pytest.approx(BY_HAND[name], rel=5 / math.sqrt(2 * weight.numel()))
    assert abs(weight.mean().item()) < 5 * BY_HAND[name] / math.sqrt(weight.numel())


def test_every_bias_of_a_new_layer_is_zero(parameters):
    biases = [name for name in parameters if name.endswith("bias") and not name.startswith("backbone")]
    assert len(biases) == 8 + 3 + 4 + 6 + 9 + 8  # pyramid; RPN; box head; mask head; keypoint head; point head
    assert not any(parameters[name].any() for name in biases)


@pytest.mark.parametrize("kind", ["pafpn", "bifpn"])
def test_the_other_pyramids_and_their_levels_above_begin_as_the_fpn(kind):
    torch.manual_seed(0)
    neck = build_neck((64, 128, 256, 512), (4, 8, 16, 32), FPNConfig(kind=kind, channels=64, extra="conv"))
    convs = [module for module in neck.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) > 10
    for conv in convs:
        expected = 1 / math.sqrt(conv.in_channels * conv.kernel_size[0] ** 2)
        assert conv.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * conv.weight.numel()))
        assert conv.bias is not None
        assert not conv.bias.any()


@pytest.mark.parametrize("classes", [3, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 80))])
def test_an_untrained_detector_is_undecided_about_everything(make_batch, classes):
    """Uniform guesses: ln 2 for a pixel of a mask and for an anchor, ln (K + 1) for a RoI."""
    model = untrained(classes, pre_nms_train=200, proposals_train=100)
    batch = make_batch([[([10, 10, 60, 50], 0, False), ([70, 20, 120, 90], classes - 1, False)]])
    losses = {name: loss.item() for name, loss in model.losses(batch).items()}
    assert losses["loss_mask"] == pytest.approx(math.log(2), abs=0.01)
    assert losses["loss_rpn_cls"] == pytest.approx(math.log(2), rel=0.1)
    # Logits of standard deviation 0.01 over 1024 features are not quite zero.
    assert losses["loss_cls"] == pytest.approx(math.log(classes + 1), abs=0.3)


def test_the_number_of_classes_does_not_change_the_first_mask_logits():
    torch.manual_seed(0)
    spreads = [untrained(classes).mask_head.logits.weight.std().item() for classes in (1, 3, 80)]
    assert max(spreads) < 1.3 * min(spreads)
