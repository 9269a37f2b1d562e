"""Feature pyramids that do not store the merged maps of their top-down path."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.fast.conv import is_plain
from detection.fast.finest import add_enlarged, finest_level
from detection.models.fpn import FPN
from detection.models.necks import PAFPN


class _FastTopDown(FPN):
    """A top-down path that recomputes its finest merged map in the backward pass, as this is the largest map."""

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        stages = stages[-len(self.lateral) :]
        merged: Tensor | None = None
        levels = []
        for i in range(len(stages) - 1, 0, -1):
            merged = self._merge(i, stages[i], merged)
            levels.append(self.output[i](merged))
        levels.append(self._finest(stages[0], merged))
        return self.above(levels[::-1], stages[-1])

    def _finest(self, stage: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is None or self.norm in ("batch", "sync"):  # a second pass would update the statistics twice
            return self._finest_kept(stage, coarser)
        if self.norm or torch.compiler.is_compiling():
            again: Tensor = checkpoint(self._finest_kept, stage, coarser, use_reentrant=False, preserve_rng_state=False)
            return again
        lateral, output = self.lateral[0], self.output[0]
        if not (_is_conv(lateral) and _is_conv(output)):
            return self._finest_kept(stage, coarser)
        return finest_level(stage, coarser, lateral[0], output[0])  # type: ignore[index, arg-type]

    def _finest_kept(self, stage: Tensor, coarser: Tensor | None) -> Tensor:
        return self.output[0](self._merge(0, stage, coarser))  # type: ignore[no-any-return]

    def _merge(self, i: int, stage: Tensor, coarser: Tensor | None) -> Tensor:
        """Return level i before its 3x3 convolution: the lateral map plus the enlarged coarser level."""
        lateral: Tensor = self.lateral[i](stage)
        return lateral if coarser is None else add_enlarged(lateral, coarser)


class FastFPN(_FastTopDown):
    """:class:`~detection.models.fpn.FPN` that needs less memory."""


class FastPAFPN(_FastTopDown, PAFPN):
    """:class:`~detection.models.necks.PAFPN` that needs less memory."""


def _is_conv(block: nn.Module) -> bool:
    """Return whether a block is a single plain convolution, so that its weights can be used without calling it."""
    parts = list(block.children())
    return is_plain(block, nn.Sequential) and len(parts) == 1 and is_plain(parts[0])
