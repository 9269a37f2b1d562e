"""What plain vision transformers share as backbones: a simple pyramid, position embeddings and groups of blocks.

Li et al. 2022, "Exploring plain vision transformer backbones for object detection" (ViTDet), section 3.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.norms import make_norm

PATCH = 16
"""Side of a patch in pixels. The four scales have strides from PATCH / 4 to 2 * PATCH."""


class SimplePyramid(nn.Module):
    """Make maps at strides 4, 8, 16 and 32 from one map at stride 16, without a top-down path (figure 2 c).

    Transposed convolutions make the finer maps, each with half the channels; max-pooling makes the coarser map.

    Args:
        norm: ``group``, one group for the whole map; or ``layer``, as in the paper, for each cell.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, channels: int, norm: Literal["group", "layer"] = "group") -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.to_quarter = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, 2),
            nn.GroupNorm(1, half) if norm == "group" else make_norm(norm, half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        self.to_half = nn.ConvTranspose2d(channels, half, 2, 2)
        self.channels = (quarter, half, channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return four maps, finest first, from a map (B, C, H, W)."""
        return self.to_quarter(x), self.to_half(x), x, F.max_pool2d(x, 2, ceil_mode=True)


def positions_at(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings (1, C, h, w) to a grid of another size; the same size returns them unchanged."""
    if positions.shape[-2:] == size:
        return positions
    return F.interpolate(positions.float(), size, mode="bicubic", antialias=True).to(positions.dtype)


def quarters(blocks: Sequence[nn.Module], last: Sequence[nn.Module] = ()) -> list[list[nn.Module | nn.Parameter]]:
    """Split blocks into four groups; ``last`` belongs to the fourth."""
    cuts = [len(blocks) * i // 4 for i in range(5)]
    parts: list[list[nn.Module | nn.Parameter]] = [list(blocks[a:b]) for a, b in itertools.pairwise(cuts)]
    parts[-1] += last
    return parts
