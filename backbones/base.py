"""The interface of every backbone."""

from collections.abc import Sequence
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Mean of red, green and blue in ImageNet, 0..255."""
IMAGENET_STD = (58.395, 57.12, 57.375)


class Backbone(nn.Module):
    """Base class: a network that turns normalised images into feature maps C2..C5.

    ``forward(images)`` takes float images (B, 3, H, W); H and W are multiples of the last stride. It returns one map
    (B, ``channels[i]``, H / ``strides[i]``, W / ``strides[i]``) per stage, finest first.
    """

    channels: tuple[int, ...]
    """Channels of each returned map."""
    strides: tuple[int, ...]
    """Stride of each returned map, in pixels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel, 0..255, which normalisation subtracts."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, by which normalisation divides."""
    smallest: int = 1
    """Side, in pixels, of the smallest image that the network accepts."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module | nn.Parameter] = []

    def stages(self) -> Sequence[nn.Module | Sequence[nn.Module | nn.Parameter]]:
        """Return the parts that :meth:`freeze` counts: the stem, then the stages."""
        raise NotImplementedError(f"{type(self).__name__} does not define stages(); freezing needs it")

    def layers(self) -> Sequence[nn.Module | Sequence[nn.Module | nn.Parameter]]:
        """Return the layers for layer-wise learning-rate decay, from input to output.

        These are the stages, or the blocks of a transformer. All other parameters, such as those of a pyramid without
        pretrained weights, use the full learning rate.
        """
        return self.stages()

    def freeze(self, stages: int | Sequence[str]) -> None:
        """Freeze stages: their parameters and the statistics of their batch norms no longer change.

        Args:
            stages: number of :meth:`stages` to freeze, from the stem on; or a list of stages (``stem``, ``layer1`` ...
                on any backbone) and patterns of module names (``layer3.*``).

        Raises:
            ValueError: the number is out of range, or a name matches nothing.
        """
        if stages == 0 or (not isinstance(stages, int) and not stages):
            return
        if isinstance(stages, int):
            every = self.stages()
            if not 0 <= stages <= len(every):
                raise ValueError(f"freeze is {stages}; use 0 to {len(every)}, the number of stages including the stem")
            for stage in every[:stages]:
                self._frozen += [stage] if isinstance(stage, nn.Module) else list(stage)
        else:
            for pattern in [stages] if isinstance(stages, str) else stages:
                self._frozen += self._matching(pattern)
        for part in self._frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def _matching(self, pattern: str) -> list[nn.Module | nn.Parameter]:
        """Return the modules of a stage, or all modules whose names match a pattern."""
        named = {"stem" if i == 0 else f"layer{i}": stage for i, stage in enumerate(self.stages())}
        if pattern in named:
            stage = named[pattern]
            return [stage] if isinstance(stage, nn.Module) else list(stage)
        found: list[nn.Module | nn.Parameter] = [
            module for name, module in self.named_modules() if name and fnmatch(name, pattern)
        ]
        if not found:
            raise ValueError(f"freeze: no module matches {pattern}; the stages are {', '.join(named)}")
        return found

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode, except for frozen stages: their batch norms would still update their statistics."""
        super().train(mode)
        for part in self._frozen:
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def check_size(self, images: Tensor) -> None:
        """Raise an error for images that are too small.

        Raises:
            ValueError: the images are too small; the message names the smallest size that works.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest:
            raise ValueError(
                f"images of {height} x {width} pixels are too small for this backbone; "
                f"use at least {self.smallest} x {self.smallest} pixels"
            )
        last = self.strides[-1]
        if self.training and len(images) == 1 and max(height, width) <= last and _has_batch_norm(self.stages()[-1]):
            raise ValueError(
                f"one image of {height} x {width} pixels gives one value per channel at stride {last}, and batch norm "
                f"cannot train on one value; use a side over {last} pixels, a batch of two, or norm group or frozen"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


def parameters_of(stage: nn.Module | Sequence[nn.Module | nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters of one entry of :meth:`Backbone.stages` or :meth:`Backbone.layers`."""
    parts = [stage] if isinstance(stage, nn.Module) else stage
    return [p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])]


def _has_batch_norm(stage: nn.Module | Sequence[nn.Module | nn.Parameter]) -> bool:
    """Return whether a batch norm in a stage takes its statistics from the batch."""
    modules = [stage] if isinstance(stage, nn.Module) else [part for part in stage if isinstance(part, nn.Module)]
    return any(isinstance(m, _BatchNorm) and m.training for module in modules for m in module.modules())
