"""MaxViT's attention for images of any size; torchvision's version supports only one size.

Tu et al. 2022, "MaxViT: Multi-axis vision transformer", section 3.2. B images, (H, W) cells of a map, C channels;
windows and grids have P x P cells (7 x 7).
"""

import math
from typing import Any

from torch import Tensor, nn


class Partition(nn.Module):
    """Attention inside windows of P x P neighbours, or inside grids of P x P cells with a spacing of H / P and W / P.

    Args:
        layer: torchvision's attention layer; its parameters keep their names.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attn_layer, self.mlp_layer = layer.attn_layer, layer.mlp_layer
        self.stochastic_dropout = layer.stochastic_dropout
        self.grid: bool = layer.partition_type == "grid"
        self.side = math.isqrt(layer.attn_layer[1].max_seq_len)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; H and W are multiples of P."""
        batch, channels, height, width = x.shape
        side = self.side
        rows, columns = height // side, width // side
        if self.grid:
            x = x.reshape(batch, channels, side, rows, side, columns).permute(0, 3, 5, 2, 4, 1)
        else:
            x = x.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(batch, rows * columns, side * side, channels)
        x = x + self.stochastic_dropout(self.attn_layer(x))
        x = x + self.stochastic_dropout(self.mlp_layer(x))
        x = x.reshape(batch, rows, columns, side, side, channels)
        # channels first, then join each axis of cells with the axis that it was split from
        x = x.permute(0, 5, 3, 1, 4, 2) if self.grid else x.permute(0, 5, 1, 3, 2, 4)
        return x.reshape(batch, channels, height, width)


def take_any_size(block: nn.Module) -> nn.Module:
    """Replace each attention layer in a stage of torchvision's MaxViT by :class:`Partition`."""
    from torchvision.models.maxvit import PartitionAttentionLayer  # here, as the import of torchvision is slow

    for name, child in block.named_children():
        setattr(block, name, Partition(child) if isinstance(child, PartitionAttentionLayer) else take_any_size(child))
    return block
