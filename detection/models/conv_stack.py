"""The first convolutions of a head."""

from collections.abc import Sequence

from torch import nn

from backbones.norms import make_norm


class ConvStack(nn.Sequential):
    """3x3 convolutions with the given output channels, each with its norm and ReLU.

    Args:
        bias: give convolutions before a norm a bias, too.
        least: smallest number of channels in a group of a group norm.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], norm: str | None, bias: bool = False, least: int = 1
    ) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=bias or norm is None)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layers += [conv, nn.ReLU(True)] if norm is None else [conv, make_norm(norm, width, least), nn.ReLU(True)]
            channels = width
        super().__init__(*layers)
