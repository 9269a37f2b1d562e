"""Faster ResNet blocks: one operation for each convolution with its norm, residual and ReLU."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.fast.fused import batched_affine_maps, conv_norm, fold_norm
from backbones.resnet import BasicBlock, Bottleneck, ResNet


class FastBasicBlock(BasicBlock):
    """:class:`~backbones.resnet.BasicBlock` in two operations."""

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm(x, self.conv1, self.bn1, relu=True)
        return conv_norm(y, self.conv2, self.bn2, relu=True, residual=_shortcut(x, self))


class FastBottleneck(Bottleneck):
    """:class:`~backbones.resnet.Bottleneck` in three operations."""

    def forward(self, x: Tensor) -> Tensor:
        y = conv_norm(x, self.conv1, self.bn1, relu=True)
        y = conv_norm(y, self.conv2, self.bn2, relu=True)
        return conv_norm(y, self.conv3, self.bn3, relu=True, residual=_shortcut(x, self))


class FastResNet(ResNet):
    """:class:`~backbones.resnet.ResNet` that computes the affine maps of all frozen norms together."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if torch.compiler.is_compiling():
            return super().forward(images)
        with batched_affine_maps(self):
            return super().forward(images)

    def stem(self, images: Tensor) -> Tensor:
        return conv_norm(images, self.conv1, self.bn1, relu=True)

    def run_again(self, block: nn.Module, x: Tensor) -> Tensor:
        # torch.compile updates batch norm statistics only once anyway, and does not support the context.
        if not torch.compiler.is_compiling():
            return super().run_again(block, x)
        y: Tensor = checkpoint(block, x, use_reentrant=False)
        return y


def fold_norms(network: nn.Module) -> None:
    """Fold every fixed norm in ResNet blocks into the convolution before it, in place.

    The network must be in evaluation mode and must stay there.
    """
    for module in network.modules():
        if not isinstance(module, ResNet | BasicBlock | Bottleneck):
            continue
        for i in (1, 2, 3):
            if hasattr(module, f"conv{i}"):
                fold_norm(module, f"conv{i}", f"bn{i}")
        projection = getattr(module, "downsample", None)
        if projection is not None:
            fold_norm(projection, "0", "1")


def _shortcut(x: Tensor, block: BasicBlock | Bottleneck) -> Tensor | None:
    """Return the shortcut of a block: the input, its projection, or None."""
    if not block.shortcut:
        return None
    projection = block.downsample
    return x if projection is None else conv_norm(x, projection[0], projection[1])  # type: ignore[arg-type]
