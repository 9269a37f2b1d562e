"""The feature pyramid network: the same number of channels, and semantic features, at every scale.

C2..C5 are the backbone's stages, P2..P6 the pyramid's levels.  Lin et al. 2017 (FPN), section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.norms import make_norm


@dataclass(frozen=True)
class FPNConfig:
    """Kind and width of the pyramid."""

    kind: Literal["fpn", "pafpn", "bifpn", "simple"] = "fpn"
    """fpn: top-down (Lin et al. 2017). pafpn: top-down and bottom-up (Liu et al. 2018). bifpn: repeated passes in both
    directions with trainable weights (Tan et al. 2020). simple: each stage for itself (Li et al. 2022, ViTDet)."""
    channels: int = 256
    """Channels of every level."""
    norm: Literal["batch", "sync", "group", "layer"] | None = None
    """Norm after every convolution of the pyramid; the paper has none."""
    extra: Literal["pool", "conv", "conv_c5"] = "pool"
    """Levels above the stages. pool: P6 by max-pooling (FPN). conv, conv_c5: P6, P7 from P5 or C5 (RetinaNet)."""
    finest: int = 2
    """The finest level: 2 is P2, one cell per 4 pixels; 3 is P3, one per 8, for one-stage detectors."""


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down path, output 3x3 convolutions, and further levels above.

    Args:
        in_channels, in_strides: channels and strides of the backbone's stages, finest first.
    """

    def __init__(self, in_channels: Sequence[int], in_strides: Sequence[int], config: FPNConfig) -> None:
        super().__init__()
        channels, norm = config.channels, config.norm
        self.lateral = nn.ModuleList(conv_block(c, channels, 1, norm) for c in in_channels)
        self.output = nn.ModuleList(conv_block(channels, channels, 3, norm) for _ in in_channels)
        self.from_c5 = config.extra == "conv_c5"
        above = [in_channels[-1] if self.from_c5 else channels, channels] if config.extra != "pool" else []
        self.extra = nn.ModuleList(conv_block(c, channels, 3, None, stride=2) for c in above)
        self.norm, self.channels = norm, channels
        self.strides = tuple(in_strides) + tuple(in_strides[-1] * 2**i for i in range(1, 1 + max(1, len(self.extra))))

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Return the pyramid's levels, finest first.

        Args:
            stages: (B, C_l, H_l, W_l) per backbone stage, finest first; those finer than the pyramid are not used.

        Returns:
            (B, channels, H_l, W_l) per stage, then the levels above.
        """
        stages = stages[-len(self.lateral) :]
        merged = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        return self.above([output(x) for output, x in zip(self.output, merged, strict=True)], stages[-1])

    def above(self, levels: list[Tensor], last: Tensor) -> list[Tensor]:
        """Append the levels above the backbone's last stage, C5, and return all."""
        if not self.extra:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        for i, conv in enumerate(self.extra):
            levels.append(conv(levels[-1].relu() if i else (last if self.from_c5 else levels[-1])))
        return levels


def conv_block(inputs: int, outputs: int, kernel: int, norm: str | None, stride: int = 1) -> nn.Sequential:
    """Return a convolution and its norm, if any."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv) if norm is None else nn.Sequential(conv, make_norm(norm, outputs))
