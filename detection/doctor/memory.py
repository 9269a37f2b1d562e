"""How much memory a training step will take, before there is one."""

from typing import Any

from backbones import BackboneConfig
from detection.backbone_tool.describe import costs
from detection.models.rcnn import FasterRCNN

HEADS = 0.25e9
"""Bytes of an image in the RPN and the heads, whose work does not grow with the image."""


def training_bytes(
    model: FasterRCNN,
    backbone: str | BackboneConfig,
    canvas: tuple[int, int],
    images: int,
    configs: dict[str, Any],
    adam: bool,
) -> float:
    """Bytes in float32 of weights, gradients, optimizer and all that the backward pass needs; a forecast.

    The backbone's part is counted, the pyramid's follows from its width; on 14 backbones, one image of 320 pixels and a
    CPU it was 0.88 to 1.04 of what a step then took.

    Args:
        model: may be on the meta device.
        canvas: height, width of the largest batch.
        images: per device.
    """
    height, width = canvas
    state = (16 if adam else 12) * sum(parameter.numel() for parameter in model.parameters())
    cells = height * width / 16 * 4 / 3  # of all levels, the finest has a quarter of the sides
    pyramid = 4 * 4 * configs["fpn"].channels * cells  # lateral, output, and the RPN's convolution and its ReLU
    return state + images * (costs(backbone, height, width).activation_bytes + pyramid + HEADS)
