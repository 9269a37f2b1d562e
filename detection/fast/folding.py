"""Cast and fold weights once for all batches of an evaluation in reduced precision."""

import copy

import torch
from torch import nn

from backbones.fast.conv import Conv2d
from backbones.fast.resnet import fold_norms
from detection.fast.box_head import FastRoILinear
from detection.models.box_head import RoILinear
from detection.models.detector import Detector

CAST = (nn.Conv2d, Conv2d, nn.ConvTranspose2d, nn.Linear, RoILinear, FastRoILinear)
"""Layers whose weights may be cast in advance. Subclasses are excluded, as they may use their weights differently."""


def folded(model: Detector, dtype: torch.dtype = torch.bfloat16) -> Detector:
    """Return a copy of a detector for faster inference under autocast to ``dtype``, with bit-identical detections.

    For every batch, autocast casts every weight, and :func:`backbones.fast.fused.conv_norm` folds fixed norms into
    their convolutions. The copy holds the results of both. It does not follow later changes of the model.

    Args:
        model: a detector in evaluation mode.
        dtype: the dtype of autocast.
    """
    copied = copy.deepcopy(model)
    with torch.no_grad():
        fold_norms(copied.backbone)
        for module in copied.modules():
            if type(module) in CAST:
                module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)  # type: ignore[arg-type]
    return copied
