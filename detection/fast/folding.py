"""What reduced precision asks of the weights before every batch, done once for all batches of an evaluation."""

import copy

import torch
from torch import nn

from backbones.fast.conv import Conv2d
from backbones.fast.resnet import fold_norms
from detection.fast.box_head import FastRoILinear
from detection.models.box_head import RoILinear
from detection.models.rcnn import FasterRCNN

CAST = (nn.Conv2d, Conv2d, nn.ConvTranspose2d, nn.Linear, RoILinear, FastRoILinear)
"""Layers that autocast casts as they are; subclasses may do more with their weights."""


def folded(model: FasterRCNN, dtype: torch.dtype = torch.bfloat16) -> FasterRCNN:
    """A copy of a detector for inference under autocast to ``dtype``: the same detections to the last bit, sooner.

    Autocast casts every weight at every batch, and fixed norms are folded into their convolutions each time
    (:func:`backbones.fast.fused.conv_norm`). The copy holds the results. It follows no later change of the model.

    Args:
        model: in evaluation mode.
    """
    copied = copy.deepcopy(model)
    with torch.no_grad():
        fold_norms(copied.backbone)
        for module in copied.modules():
            if type(module) in CAST:
                module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)  # type: ignore[arg-type]
    return copied
