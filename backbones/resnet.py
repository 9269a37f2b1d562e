"""ResNet, ResNeXt and Wide ResNet with 10 to 152 layers, and plain networks without shortcuts.

He et al. 2015, "Deep residual learning for image recognition" (sections 3.3, 4.1); Xie et al. 2017 (ResNeXt);
Zagoruyko and Komodakis 2016 (Wide ResNet). Parameters have torchvision's names, so its ImageNet weights fit.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.checkpointing import checkpointed
from backbones.norms import make_norm


@dataclass(frozen=True)
class Variant:
    """One row of table 1 of the paper."""

    blocks: tuple[int, int, int, int]
    """Blocks per stage."""
    bottleneck: bool
    """Three convolutions (1x1, 3x3, 1x1) per block instead of two."""
    groups: int = 1
    """Groups of the 3x3 convolution (the cardinality of ResNeXt)."""
    group_width: int = 64
    """Channels per group in the first stage; one group of 128 gives a Wide ResNet."""
    shortcut: bool = True
    """False: a plain network, which section 4.1 compares with."""


VARIANTS = {
    "resnet10": Variant((1, 1, 1, 1), False),
    "resnet18": Variant((2, 2, 2, 2), False),
    "resnet34": Variant((3, 4, 6, 3), False),
    "resnet50": Variant((3, 4, 6, 3), True),
    "resnet101": Variant((3, 4, 23, 3), True),
    "resnet152": Variant((3, 8, 36, 3), True),
    "resnext50_32x4d": Variant((3, 4, 6, 3), True, 32, 4),
    "resnext101_32x8d": Variant((3, 4, 23, 3), True, 32, 8),
    "resnext101_64x4d": Variant((3, 4, 23, 3), True, 64, 4),
    "wide_resnet50_2": Variant((3, 4, 6, 3), True, 1, 128),
    "wide_resnet101_2": Variant((3, 4, 23, 3), True, 1, 128),
    "plain18": Variant((2, 2, 2, 2), False, shortcut=False),
    "plain34": Variant((3, 4, 6, 3), False, shortcut=False),
    "plain50": Variant((3, 4, 6, 3), True, shortcut=False),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left); ``stride_in_1x1`` has no effect."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        variant: Variant,
        norm: str = "batch",
        stride: int = 1,
        dilation: int = 1,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, width, stride, dilation)
        self.bn1 = make_norm(norm, width)
        self.conv2 = _conv3x3(width, width, 1, dilation)
        self.bn2 = make_norm(norm, width)
        self.downsample = _projection(inputs, width, stride, norm) if variant.shortcut else None
        self.shortcut = variant.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, width, H / stride, W / stride)."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y))
        return add_input(y, x, self).relu()

    def last_norm(self) -> nn.Module:
        """Return the norm before the sum."""
        return self.bn2


class Bottleneck(nn.Module):
    """A 1x1 convolution that reduces channels, a 3x3, a 1x1 that restores them, and a shortcut (figure 5, right).

    The paper puts the stride into the first 1x1, torchvision into the 3x3, which reads every pixel of its input.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        variant: Variant,
        norm: str = "batch",
        stride: int = 1,
        dilation: int = 1,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        inner = width * variant.group_width // 64 * variant.groups
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, inner, 1, first, bias=False)
        self.bn1 = make_norm(norm, inner)
        self.conv2 = _conv3x3(inner, inner, second, dilation, variant.groups)
        self.bn2 = make_norm(norm, inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = make_norm(norm, outputs)
        self.downsample = _projection(inputs, outputs, stride, norm) if variant.shortcut else None
        self.shortcut = variant.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, 4 * width, H / stride, W / stride)."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return add_input(y, x, self).relu()

    def last_norm(self) -> nn.Module:
        """Return the norm before the sum."""
        return self.bn3


class ResNet(Backbone):
    """A stem and four stages of residual blocks; returns C2..C5 at strides 4, 8, 16, 32.

    Args:
        variant: depth and kind; see :data:`VARIANTS`.
        norm: ``frozen``, ``batch``, ``sync`` or ``group``.
        width: channels of the first stage; 64 in the paper.
        in_channels: channels of the images.
        zero_init_last_norm: start every block as the identity (Goyal et al. 2017, section 5.1).
        dilate_last_stage: use dilation instead of a stride in C5 ("DC5"), which then has stride 16.
        checkpoint: recompute the activations inside blocks in the backward pass, to save memory.
        stride_in_1x1: put the stride of a bottleneck into its first 1x1, as the paper and Caffe do.
        num_classes: classes of a classifier (``fc``), which :meth:`classify` uses; None: no classifier.

    Raises:
        ValueError: the width is so small that a group of ResNeXt would have no channels.
    """

    def __init__(
        self,
        variant: Variant,
        norm: str = "batch",
        width: int = 64,
        in_channels: int = 3,
        zero_init_last_norm: bool = False,
        dilate_last_stage: bool = False,
        checkpoint: bool = False,
        stride_in_1x1: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        least = -(-64 // variant.group_width)
        if width < least:
            raise ValueError(f"backbone.width is {width}; this network needs at least {least}")
        block = Bottleneck if variant.bottleneck else BasicBlock
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width)
        channels = width
        for i, count in enumerate(variant.blocks):
            dilated = dilate_last_stage and i == 3
            stride = 1 if i == 0 or dilated else 2
            stage = []
            for j in range(count):
                # The input of the first dilated block still has the spacing of stride 16.
                spacing = 2 if dilated and j > 0 else 1
                first = stride if j == 0 else 1
                stage.append(block(channels, width * 2**i, variant, norm, first, spacing, stride_in_1x1))
                channels = width * 2**i * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(channels, num_classes) if num_classes is not None else None
        self.channels = tuple(width * 2**i * block.expansion for i in range(4))
        self.strides = (4, 8, 16, 16 if dilate_last_stage else 32)
        self.checkpoint = checkpoint
        self._initialise(zero_init_last_norm)

    def _initialise(self, zero_init_last_norm: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init_last_norm and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm().weight)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.check_size(images)
        x = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)
        stages = []
        for name in ("layer1", "layer2", "layer3", "layer4"):
            for block in getattr(self, name):
                again = self.checkpoint and self.training and x.requires_grad
                x = self.run_again(block, x) if again else block(x)
            stages.append(x)
        return tuple(stages)

    def stem(self, images: Tensor) -> Tensor:
        """Return the features of the stem before pooling: (B, width, H / 2, W / 2)."""
        y: Tensor = self.bn1(self.conv1(images)).relu()
        return y

    def run_again(self, block: nn.Module, x: Tensor) -> Tensor:
        """Run a block whose activations the backward pass recomputes."""
        return checkpointed(block, x)

    def classify(self, images: Tensor) -> Tensor:
        """Return class logits (B, num_classes) of images; needs ``num_classes``."""
        if self.fc is None:
            raise ValueError("this ResNet has no classifier; build it with num_classes")
        return self.fc(self(images)[-1].mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def stages(self) -> list[nn.Module | list[nn.Module]]:
        stem: list[nn.Module] = [self.conv1, self.bn1]
        return [stem, *(getattr(self, f"layer{i}") for i in range(1, 5))]


def _projection(inputs: int, outputs: int, stride: int, norm: str) -> nn.Sequential | None:
    """Return the shortcut for a block that changes the size: a strided 1x1 convolution (option B of section 3.3)."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), make_norm(norm, outputs))


def _conv3x3(inputs: int, outputs: int, stride: int, dilation: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def add_input(y: Tensor, x: Tensor, block: BasicBlock | Bottleneck) -> Tensor:
    """Add the input of a block, or its projection, to the output (equation 2)."""
    if not block.shortcut:
        return y
    return y + (x if block.downsample is None else block.downsample(x))
