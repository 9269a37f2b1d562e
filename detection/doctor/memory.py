"""Forecast the memory of a training step."""

from typing import Any

from backbones import BackboneConfig
from detection.backbone_tool.describe import costs
from detection.models.detector import Detector

HEADS = 0.13e9
"""Bytes of an image in the RPN and the heads; they do not depend on the size of the image."""


def training_bytes(
    model: Detector,
    backbone: str | BackboneConfig,
    canvas: tuple[int, int],
    images: int,
    configs: dict[str, Any],
    adam: bool,
) -> float:
    """Forecast the bytes of weights, gradients, optimizer and activations in float32.

    The backbone's activations are counted. Those of the pyramid follow from its width. The forecast is for images of
    many sizes, of which ``canvas`` is the largest. On a CPU, it was 1.00 to 1.19 times the bytes that 36 such steps
    used (240 to 520 pixels, ResNet-18, 50 and 101 with two images, ResNet-50 with four). Steps of one size used down to
    0.6 of it.

    Args:
        model: detector, which may be on the meta device.
        canvas: height, width of the largest batch, in pixels.
        images: images per device.
    """
    height, width = canvas
    state = (16 if adam else 12) * sum(parameter.numel() for parameter in model.parameters())
    cells = height * width / 16 * 4 / 3  # of all levels; the finest has a stride of 4
    # About four maps of each level at the peak: features, and gradients on their way.
    pyramid = 4 * 4 * configs["fpn"].channels * cells
    return state + images * (costs(backbone, height, width).activation_bytes + pyramid + HEADS)
