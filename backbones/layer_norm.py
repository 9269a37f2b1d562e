"""Layer norm over the channels of each cell of a map."""

import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Normalise the channels of each cell of (B, C, H, W) alone.

    So a cell does not depend on the size of the map, or on its padding. Li et al. 2022 (ViTDet) use this norm in the
    pyramid and in the heads.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        cells = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return cells.permute(0, 3, 1, 2)
