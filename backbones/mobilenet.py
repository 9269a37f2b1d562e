"""MobileNetV3-Large as in torchvision's detectors: two maps of stride 32.

Howard et al. 2019, "Searching for MobileNetV3". Parameters are named as in torchvision.
"""

from functools import partial

from torch import Tensor, nn

from backbones.base import Backbone
from backbones.norms import make_norm

TAPS = (13, 16)
"""Layers whose outputs are returned: the first block of stride 32, and the last convolution, which widens the map."""


class MobileNetV3C5(Backbone):
    """MobileNetV3-Large with two maps of the same stride; they differ in depth, not in scale."""

    channels = (160, 960)
    strides = (32, 32)

    def __init__(self, norm: str = "batch") -> None:
        from torchvision.models import mobilenet_v3_large  # here, as this import takes longer than that of PyTorch

        super().__init__()
        layers = mobilenet_v3_large(weights=None, norm_layer=partial(make_norm, norm)).features
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)  # torchvision's names: 0.0.weight, 1.block.0.0.weight, ...

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.check_size(images)
        features = []
        for i, layer in enumerate(self.children()):
            images = layer(images)
            if i in TAPS:
                features.append(images)
        return tuple(features)

    def stages(self) -> list[list[nn.Module]]:
        layers = list(self.children())
        ends = [0, 2, 4, 7, 13]
        return [layers[a:b] for a, b in zip(ends, [*ends[1:], len(layers)], strict=True)]
