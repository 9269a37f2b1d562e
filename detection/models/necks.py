"""Feature pyramids by name: FPN, two that add a bottom-up path, and one whose levels are independent.

C2..C5 are the backbone's stages, P2..P6 the pyramid's levels.  Liu et al. 2018 (PANet), section 3.1; Tan et al. 2020
(EfficientDet), section 3; Li et al. 2022 (ViTDet), section 3.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.models.fpn import FPN, FPNConfig, conv_block


class PAFPN(FPN):
    """FPN with a bottom-up path over its levels: N_i = conv(P_i + strided conv(N_(i-1)))."""

    def __init__(self, in_channels: Sequence[int], in_strides: Sequence[int], config: FPNConfig) -> None:
        super().__init__(in_channels, in_strides, config)
        channels, norm, count = config.channels, config.norm, len(in_channels) - 1
        self.down = nn.ModuleList(conv_block(channels, channels, 3, norm, stride=2) for _ in range(count))
        self.fuse = nn.ModuleList(conv_block(channels, channels, 3, norm) for _ in range(count))

    def above(self, levels: list[Tensor], last: Tensor) -> list[Tensor]:
        """Run the bottom-up path, then append the levels above the backbone's last stage."""
        up = [levels[0]]
        for level, down, fuse in zip(levels[1:], self.down, self.fuse, strict=True):
            up.append(fuse(level + _resize_like(down(up[-1]), level)))
        return super().above(up, last)


class BiFPN(FPN):
    """Repeated top-down and bottom-up passes, in which every sum has trainable, normalised weights.

    Args:
        passes: number of passes.
    """

    def __init__(
        self, in_channels: Sequence[int], in_strides: Sequence[int], config: FPNConfig, passes: int = 3
    ) -> None:
        super().__init__(in_channels, in_strides, config)
        self.output = nn.ModuleList()  # the passes have their own convolutions
        self.passes = nn.ModuleList(BiFPNPass(len(in_channels), config.channels, config.norm) for _ in range(passes))

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Return the pyramid's levels; see :meth:`FPN.forward`."""
        stages = stages[-len(self.lateral) :]
        levels = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for each in self.passes:
            levels = each(levels)
        return self.above(levels, stages[-1])


class BiFPNPass(nn.Module):
    """One top-down and one bottom-up path over ``count`` levels (figure 2 d)."""

    def __init__(self, count: int, channels: int, norm: str | None) -> None:
        super().__init__()
        self.down = nn.ModuleList(conv_block(channels, channels, 3, norm) for _ in range(count - 1))
        self.up = nn.ModuleList(conv_block(channels, channels, 3, norm) for _ in range(count - 1))
        self.down_weights = nn.Parameter(torch.ones(count - 1, 2))
        self.up_weights = nn.ParameterList(torch.ones(2 if i == count - 2 else 3) for i in range(count - 1))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Map levels (B, C, H_l, W_l), finest first, to the same shapes."""
        middle = list(levels)
        for i in range(len(levels) - 2, -1, -1):
            coarser = F.interpolate(middle[i + 1], size=levels[i].shape[-2:], mode="nearest")
            middle[i] = self.down[i](_weighted_sum(self.down_weights[i], [levels[i], coarser]))
        result = [middle[0]]
        for i, conv in enumerate(self.up):
            finer = _resize_like(F.max_pool2d(result[-1], 3, stride=2, padding=1), levels[i + 1])
            # The coarsest level has no intermediate map.
            inputs = [levels[i + 1], finer] if i == len(self.up) - 1 else [levels[i + 1], middle[i + 1], finer]
            result.append(conv(_weighted_sum(self.up_weights[i], inputs)))
        return result


class SimpleFPN(FPN):
    """Two convolutions for each stage alone: all maps of a plain ViT come from its last block (figure 2 c)."""

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Return the pyramid's levels; see :meth:`FPN.forward`."""
        stages = stages[-len(self.lateral) :]
        levels = [output(lateral(x)) for lateral, output, x in zip(self.lateral, self.output, stages, strict=True)]
        return self.above(levels, stages[-1])


NECKS: dict[str, type[FPN]] = {"fpn": FPN, "pafpn": PAFPN, "bifpn": BiFPN, "simple": SimpleFPN}


def build_neck(in_channels: Sequence[int], in_strides: Sequence[int], config: FPNConfig) -> FPN:
    """Build the pyramid that a config describes.

    Raises:
        ValueError: ``kind`` or ``extra`` is unknown, or ``finest`` is above all stages.
    """
    for key, value, known in (("kind", config.kind, NECKS), ("extra", config.extra, ("pool", "conv", "conv_c5"))):
        if value not in known:
            raise ValueError(f"fpn.{key} is {value!r}; use one of {', '.join(known)}")
    first = sum(stride < 2**config.finest for stride in in_strides)
    if first == len(in_strides):
        coarsest = in_strides[-1].bit_length() - 1
        raise ValueError(f"fpn.finest is {config.finest}; the backbone's coarsest stage is C{coarsest}")
    return NECKS[config.kind](in_channels[first:], in_strides[first:], config)


def _weighted_sum(weights: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Return the fast normalised fusion of inputs (section 3.3), followed by the paper's swish."""
    positive = weights.relu()
    fractions = positive / (positive.sum() + 1e-4)
    return F.silu(torch.stack([fraction * x for fraction, x in zip(fractions, inputs, strict=True)]).sum(dim=0))


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Resize ``x`` to the size of ``like``; with odd sizes they differ by one cell."""
    return x if x.shape[-2:] == like.shape[-2:] else F.interpolate(x, size=like.shape[-2:], mode="nearest")
