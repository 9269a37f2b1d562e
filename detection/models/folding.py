"""What reduced precision asks of the weights before every batch, done once for all batches of an evaluation."""

import copy

import torch
from torch import nn

from backbones.conv import Conv2d
from detection.models.rcnn import FasterRCNN
from detection.models.roi_linear import RoILinear

CAST = (nn.Conv2d, Conv2d, nn.ConvTranspose2d, nn.Linear, RoILinear)
"""Layers that autocast casts as they are; subclasses may do more with their weights."""


def folded(model: FasterRCNN, dtype: torch.dtype = torch.bfloat16) -> FasterRCNN:
    """A copy of a detector for inference under autocast to ``dtype``: the same detections to the last bit, sooner.

    Autocast casts every weight at every batch, and fixed norms are folded into their convolutions each time
    (:func:`backbones.norms.conv_norm`). The copy holds the results. It follows no later change of the model.

    Args:
        model: in evaluation mode.
    """
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.backbone.fold_norms()
        for module in copied.modules():
            if type(module) in CAST:
                module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)  # type: ignore[arg-type]
    return copied
