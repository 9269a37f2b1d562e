"""Tiny detectors with detections, one of each kind."""

import torch

from backbones import BackboneConfig
from detection.models.anchors import AnchorConfig
from detection.models.build import build_detector
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.retinanet import RetinaNetConfig
from tests.support.detectors import make_tiny

BODY = BackboneConfig("resnet18", norm="group", width=16)
FPN3 = FPNConfig(channels=16, extra="conv", finest=3)
ONE_STAGE = {"convs": 1, "score_threshold": 0.05, "candidates": 50, "detections": 20}


def mask_rcnn():
    model = make_tiny()
    spread(model.box_head.logits, 1.5)
    spread(model.box_head.deltas, 1.0)
    spread(model.mask_head.logits, 2.0)
    return model


def retinanet():
    torch.manual_seed(0)
    anchors = AnchorConfig(sizes=(8, 16, 32, 64, 128))
    model = build_detector(3, BODY, FPN3, retinanet=RetinaNetConfig(anchors=anchors, prior=0.3, **ONE_STAGE))
    spread(model.head.logits, 0.5)
    spread(model.head.deltas, 0.5)
    return model


def fcos():
    torch.manual_seed(0)
    model = build_detector(3, BODY, FPN3, fcos=FCOSConfig(norm=None, prior=0.3, **ONE_STAGE))
    spread(model.head.logits, 0.5)
    spread(model.head.sides, 0.5)
    torch.nn.init.ones_(model.head.sides.bias)
    return model


def spread(layer, factor):
    """Widen the outputs of an untrained layer, so that detections differ."""
    with torch.no_grad():
        layer.weight.mul_(factor / layer.weight.std() / layer.weight[0].numel() ** 0.5)


MODELS = {"mask_rcnn": mask_rcnn, "retinanet": retinanet, "fcos": fcos}
