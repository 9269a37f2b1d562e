"""What every backbone is: stages of features, and what is known of them."""

from collections.abc import Sequence
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Red, green, blue of ImageNet in 0..255."""
IMAGENET_STD = (58.395, 57.12, 57.375)


class Backbone(nn.Module):
    """A network that turns normalised images into feature maps C2..C5.

    ``forward(images)`` takes (B, 3, H, W) float, H and W multiples of the last stride, and returns one
    (B, ``channels[i]``, H / ``strides[i]``, W / ``strides[i]``) tensor per stage, finest first.
    """

    channels: tuple[int, ...]
    """Channels of each stage that is returned."""
    strides: tuple[int, ...]
    """Pixels per cell of each stage."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """What to subtract from each channel, 0..255."""
    std: tuple[float, ...] = IMAGENET_STD
    """What to divide by."""
    smallest: int = 1
    """Pixels on a side of the smallest image that leaves something for the last stage."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module | nn.Parameter] = []

    def stages(self) -> Sequence[nn.Module | Sequence[nn.Module | nn.Parameter]]:
        """What :meth:`freeze` counts: the stem first, then the stages."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its stages are, so none can be frozen")

    def layers(self) -> Sequence[nn.Module | Sequence[nn.Module | nn.Parameter]]:
        """What layer-wise learning-rate decay counts, from the input on: the stages, or the blocks of a transformer.

        What is not in it, such as a pyramid without pretrained weights, learns at the full rate.
        """
        return self.stages()

    def freeze(self, stages: int | Sequence[str]) -> None:
        """Keep stages as they are: parameters, and the norms' statistics.

        Args:
            stages: how many of :meth:`stages` from the first on; or which: ``stem``, ``layer1``, ``layer2`` ... on any
                backbone, or patterns of module names (``layer3.*``).

        Raises:
            ValueError: fewer than none or more than there are; a name that fits nothing.
        """
        if stages == 0 or (not isinstance(stages, int) and not stages):
            return
        if isinstance(stages, int):
            every = self.stages()
            if not 0 <= stages <= len(every):
                raise ValueError(f"freeze is {stages}; give 0 to {len(every)}, the number of stages with the stem")
            for stage in every[:stages]:
                self._frozen += [stage] if isinstance(stage, nn.Module) else list(stage)
        else:
            for pattern in [stages] if isinstance(stages, str) else stages:
                self._frozen += self._matching(pattern)
        for part in self._frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def _matching(self, pattern: str) -> list[nn.Module | nn.Parameter]:
        """The modules of a stage, or all whose names fit a pattern."""
        named = {"stem" if i == 0 else f"layer{i}": stage for i, stage in enumerate(self.stages())}
        if pattern in named:
            stage = named[pattern]
            return [stage] if isinstance(stage, nn.Module) else list(stage)
        found: list[nn.Module | nn.Parameter] = [
            module for name, module in self.named_modules() if name and fnmatch(name, pattern)
        ]
        if not found:
            raise ValueError(f"freeze: nothing is called {pattern}; stages are {', '.join(named)}")
        return found

    def train(self, mode: bool = True) -> "Backbone":
        """Training mode for all but the frozen stages, whose batch norms would go on counting."""
        super().train(mode)
        for part in self._frozen:
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def check_size(self, images: Tensor) -> None:
        """Refuse images that are too small, before PyTorch does in words of its own.

        Raises:
            ValueError: says which size would do.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest:
            raise ValueError(
                f"images of {height} x {width} pixels are too small for this backbone; "
                f"{self.smallest} x {self.smallest} and larger would do"
            )
        last = self.strides[-1]
        if self.training and len(images) == 1 and max(height, width) <= last and _counts(self.stages()[-1]):
            raise ValueError(
                f"one image of {height} x {width} pixels leaves one value per channel at stride {last}, and batch norm "
                f"cannot learn from one; a side over {last} pixels, two images, or norm group or frozen would do"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


def parameters_of(stage: nn.Module | Sequence[nn.Module | nn.Parameter]) -> list[nn.Parameter]:
    """The parameters of one of :meth:`Backbone.stages` or :meth:`Backbone.layers`."""
    parts = [stage] if isinstance(stage, nn.Module) else stage
    return [p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])]


def _counts(stage: nn.Module | Sequence[nn.Module | nn.Parameter]) -> bool:
    """Whether a batch norm of a stage takes its statistics from the batch."""
    modules = [stage] if isinstance(stage, nn.Module) else [part for part in stage if isinstance(part, nn.Module)]
    return any(isinstance(m, _BatchNorm) and m.training for module in modules for m in module.modules())
