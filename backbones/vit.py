"""torchvision's plain vision transformers as backbones, with four scales from one map at stride 16.

Li et al. 2022, "Exploring plain vision transformer backbones for object detection" (ViTDet), section 3.
"""

from typing import Any

from torch import Tensor, nn

from backbones.base import Backbone
from backbones.padding import cut_to, pad_to
from backbones.pretrained import imagenet_weights, load_state, read_weights
from backbones.simple_pyramid import PATCH, SimplePyramid, positions_at, quarters

VITS = ("vit_b_16", "vit_l_16")
"""torchvision's networks with patches of this size."""


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
