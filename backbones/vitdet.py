"""The plain vision transformer of ViTDet: windows of 14 x 14 patches, and four blocks that see the whole image.

Li et al. 2022, "Exploring plain vision transformer backbones for object detection", section 3 and appendix A. The
blocks, with their relative positions, are those of timm.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.padding import cut_to, pad_to
from backbones.pretrained import load_state, read_weights
from backbones.simple_pyramid import PATCH, SimplePyramid, positions_at, quarters

WINDOW = 14
"""Side of a window, in patches."""
SIDE = 1024
"""Side of the images for which the tables of relative positions have their full length, in pixels."""


class Size(NamedTuple):
    """Width and depth of a transformer."""

    width: int
    depth: int
    heads: int
    pretrained: str
    """timm's name of the weights that ``imagenet`` means: MAE (He et al. 2022)."""


VITDETS = {
    "vitdet_b": Size(768, 12, 12, "vit_base_patch16_224.mae"),
    "vitdet_l": Size(1024, 24, 16, "vit_large_patch16_224.mae"),
}


class ViTDet(Backbone):
    """A ViT with windowed attention, for images of any size.

    The network pads images to squares, as detectron2 does: positions then mean the same in each direction. The last
    block of each quarter attends to the whole square.

    Args:
        size: width and depth.
        weights: ``imagenet``, a file of a ViT with patches of 16 pixels, as MAE and timm write it, or None (random).
        drop_path: probability with which training skips the last block; earlier ones have less (Huang et al. 2016).

    Raises:
        ValueError: timm is not installed, or the weights do not exist, cannot be downloaded, or do not fit.
    """

    smallest = 2 * PATCH

    def __init__(self, size: Size, weights: str | None = None, drop_path: float = 0.0) -> None:
        super().__init__()
        body = _transformer(size, drop_path)
        self.patches, self.blocks = body.patch_embed, body.blocks
        self.positions = nn.Parameter(torch.zeros(1, size.width, 14, 14))  # those of an image of 224 pixels
        self.pyramid = SimplePyramid(size.width, "layer")
        self.channels, self.strides = self.pyramid.channels, self.pyramid.strides
        nn.init.trunc_normal_(self.positions, std=0.02)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if weights is not None:
            state = _mae_weights(size.pretrained) if weights == "imagenet" else read_weights(weights)
            source = weights if weights != "imagenet" else f"weights of timm/{size.pretrained}"
            self._load(state, source)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.check_size(images)
        side = max(images.shape[-2:])
        x = self.patches(pad_to(images, side + -side % self.strides[-1]))  # (B, h, h, C)
        x = x + positions_at(self.positions, (x.shape[1], x.shape[2])).permute(0, 2, 3, 1)
        features = self.pyramid(self.blocks(x).permute(0, 3, 1, 2))
        return cut_to(features, images, self.strides)

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """Return the patch embedding, then four groups of blocks."""
        return [[self.patches, self.positions], *quarters(list(self.blocks))]

    def layers(self) -> list[list[nn.Module | nn.Parameter]]:
        """Return each block as one layer; the pyramid is not pretrained and uses the full learning rate."""
        return [[self.patches, self.positions], *([block] for block in self.blocks)]

    def _load(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load the weights of a ViT; relative positions and the pyramid, which it does not have, stay as they are."""
        state = vit_weights(state)
        own = self.state_dict()
        needed = {name for name in own if not name.startswith("pyramid.") and ".rel_pos_" not in name}
        load_state(self, state, source, needed | (own.keys() & state.keys()))


def vit_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ViT in MAE's layout with the names of :class:`ViTDet`; others unchanged."""
    if "pos_embed" not in state:
        return dict(state)
    kept = ("blocks.", "patch_embed.", "pos_embed")
    found = {name.replace("patch_embed.", "patches."): x for name, x in state.items() if name.startswith(kept)}
    positions = found.pop("pos_embed")
    cells = positions[:, positions.shape[1] - int(positions.shape[1] ** 0.5) ** 2 :]  # without the class token
    side = int(cells.shape[1] ** 0.5)
    found["positions"] = cells.transpose(1, 2).unflatten(2, (side, side)).contiguous()
    return found


def _transformer(size: Size, drop_path: float) -> Any:
    """Return timm's transformer, of which the backbone takes the patch embedding and the blocks."""
    try:
        from timm.models.vision_transformer_sam import VisionTransformerSAM
    except ModuleNotFoundError as error:
        raise ValueError("backbone vitdet: timm is not installed; run pip install 'rcnn-toolkit[timm]'") from error
    return VisionTransformerSAM(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        drop_path_rate=drop_path,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]  # called with the width alone
        use_abs_pos=False,
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=tuple(size.depth * i // 4 - 1 for i in range(1, 5)),
        num_classes=0,
    )


def _mae_weights(name: str) -> dict[str, Tensor]:
    """Return timm's weights of a name, from the cache of the Hugging Face Hub or by download."""
    import timm

    try:
        found: dict[str, Tensor] = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(
            f"weights: timm could not load timm/{name} ({reason}); give a file, or copy timm/{name} from another "
            "machine into the cache of the Hugging Face Hub"
        ) from None
    return found
