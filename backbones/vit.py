"""Plain vision transformers as backbones: a simple pyramid makes four scales from one map at stride 16.

Li et al. 2022, "Exploring plain vision transformer backbones for object detection" (ViTDet), section 3.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.layer_norm import LayerNorm2d
from backbones.padding import cut_to, pad_to
from backbones.pretrained import imagenet_weights, load_state, read_weights

PATCH = 16
"""Side of a patch in pixels. The four scales have strides from PATCH / 4 to 2 * PATCH."""
VITS = ("vit_b_16", "vit_l_16")
"""torchvision's networks with patches of this size."""


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
            nn.GroupNorm(1, half) if norm == "group" else LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        self.to_half = nn.ConvTranspose2d(channels, half, 2, 2)
        self.channels = (quarter, half, channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return four maps, finest first, from a map (B, C, H, W)."""
        return self.to_quarter(x), self.to_half(x), x, F.max_pool2d(x, 2, ceil_mode=True)


class VisionTransformer(Backbone):
    """torchvision's ViT with patches of 16 pixels, for images of any size.

    It has no class token, which detection does not use. It interpolates the position embeddings to the image size.

    Args:
        name: ``vit_b_16`` or ``vit_l_16``.
        weights: ``imagenet``, a file in torchvision's layout, or None (random).

    Raises:
        ValueError: the weights do not exist, cannot be downloaded, or do not fit.
    """

    def __init__(self, name: str, weights: str | None = None) -> None:
        from torchvision import models  # here, as its import takes longer than that of PyTorch

        super().__init__()
        whole: Any = models.get_model(name, weights=None)
        if weights is not None:
            whole.heads = nn.Identity()
            state = imagenet_weights(name) if weights == "imagenet" else read_weights(weights)
            state = {key: value for key, value in state.items() if not key.startswith("heads.")}
            load_state(whole, state, weights if weights != "imagenet" else f"ImageNet weights of {name}")
        width, positions = whole.hidden_dim, whole.encoder.pos_embedding.detach()[:, 1:]
        side = whole.image_size // PATCH
        self.patches = whole.conv_proj
        self.positions = nn.Parameter(positions.transpose(1, 2).reshape(1, width, side, side).contiguous())
        self.blocks, self.norm = whole.encoder.layers, whole.encoder.ln
        self.pyramid = SimplePyramid(width)
        self.channels, self.strides = self.pyramid.channels, self.pyramid.strides

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.patches(pad_to(images, PATCH))
        x = x + positions_at(self.positions, (x.shape[-2], x.shape[-1]))
        size = x.shape[-2:]
        x = self.norm(self.blocks(x.flatten(2).transpose(1, 2)))
        features = self.pyramid(x.transpose(1, 2).unflatten(2, size))
        return cut_to(features, images, self.strides)

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """Return the patch embedding, then four groups of blocks."""
        return [[self.patches, self.positions], *quarters(list(self.blocks), [self.norm])]

    def layers(self) -> list[list[nn.Module | nn.Parameter]]:
        """Return each block as one layer; the pyramid is not pretrained and uses the full learning rate."""
        blocks = list(self.blocks)
        return [[self.patches, self.positions], *([block] for block in blocks[:-1]), [blocks[-1], self.norm]]


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
