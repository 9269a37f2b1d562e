"""The feature pyramid: one width and strong semantics at every scale.

C2..C5 are the backbone's stages, P2..P6 the pyramid's levels.  Lin et al. 2017 (FPN), section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.conv import Conv2d, is_plain
from backbones.norms import make_norm
from detection.models.finest import add_enlarged, finest_level


@dataclass(frozen=True)
class FPNConfig:
    """Kind and width of the pyramid."""

    kind: Literal["fpn", "pafpn", "bifpn"] = "fpn"
    """fpn: top-down (Lin et al. 2017); pafpn: and bottom-up again (Liu et al. 2018); bifpn: both ways, repeatedly, with
    learnt weights (Tan et al. 2020)."""
    channels: int = 256
    """Channels of every level."""
    norm: Literal["batch", "sync", "group"] | None = None
    """Norm after every convolution of the pyramid; none in the paper."""
    extra: Literal["pool", "conv"] = "pool"
    """Levels above the backbone's last: P6 by max-pooling P5 (FPN), or P6 and P7 by convolution (RetinaNet)."""


class FPN(nn.Module):
    """Lateral 1x1 and output 3x3 convolutions with a top-down path, and the levels above."""

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: int = 256,
        norm: Literal["batch", "sync", "group"] | None = None,
        extra: Literal["pool", "conv"] = "pool",
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_block(c, channels, 1, norm) for c in in_channels)
        self.output = nn.ModuleList(conv_block(channels, channels, 3, norm) for _ in in_channels)
        self.extra = nn.ModuleList(
            conv_block(channels, channels, 3, None, stride=2) for _ in range(2 * (extra == "conv"))
        )
        self.norm = norm
        self.channels = channels
        self.strides = tuple(in_strides) + tuple(in_strides[-1] * 2**i for i in range(1, 1 + max(1, len(self.extra))))

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Pyramid levels, finest first.

        Args:
            stages: (B, C_l, H_l, W_l) per backbone stage, finest first.

        Returns:
            (B, channels, H_l, W_l) per stage, then the levels above.
        """
        merged: Tensor | None = None
        levels = []
        for i in range(len(stages) - 1, 0, -1):
            merged = self._merge(i, stages[i], merged)
            levels.append(self.output[i](merged))
        levels.append(self._finest(stages[0], merged))
        return self.above(levels[::-1])

    def _finest(self, stage: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is None or self.norm in ("batch", "sync"):  # which would count the batch twice, made again
            return self._finest_kept(stage, coarser)
        if self.norm or torch.compiler.is_compiling():
            again: Tensor = checkpoint(self._finest_kept, stage, coarser, use_reentrant=False, preserve_rng_state=False)
            return again
        lateral, output = self.lateral[0], self.output[0]
        if not (_is_conv(lateral) and _is_conv(output)):
            return self._finest_kept(stage, coarser)
        return finest_level(stage, coarser, lateral[0], output[0])  # type: ignore[index, arg-type]

    def _finest_kept(self, stage: Tensor, coarser: Tensor | None) -> Tensor:
        return self.output[0](self._merge(0, stage, coarser))  # type: ignore[no-any-return]

    def _merge(self, i: int, stage: Tensor, coarser: Tensor | None) -> Tensor:
        """Level i before its 3x3 convolution: what the stage gives, and the coarser level enlarged."""
        lateral: Tensor = self.lateral[i](stage)
        return lateral if coarser is None else add_enlarged(lateral, coarser)

    def above(self, levels: list[Tensor]) -> list[Tensor]:
        """The levels, and those beyond the backbone's last stage."""
        if not self.extra:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        for i, conv in enumerate(self.extra):
            levels.append(conv(levels[-1] if i == 0 else levels[-1].relu()))
        return levels


def _is_conv(block: nn.Module) -> bool:
    """Whether a block is a convolution alone, which need not be called."""
    parts = list(block.children())
    return is_plain(block, nn.Sequential) and len(parts) == 1 and is_plain(parts[0])


def conv_block(inputs: int, outputs: int, kernel: int, norm: str | None, stride: int = 1) -> nn.Sequential:
    """A convolution and its norm, if any."""
    conv = Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=norm is None)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv) if norm is None else nn.Sequential(conv, make_norm(norm, outputs))
