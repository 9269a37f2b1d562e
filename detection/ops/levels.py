"""A feature pyramid as one table of vectors, from which RoIs and windows are gathered.

B images, C channels, H_l x W_l cells of level l.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Levels(NamedTuple):
    """All cells of all levels; made once for all that is gathered from it, so that gradients meet in one tensor."""

    vectors: Tensor
    """(cells, C): level by level, image by image, row by row."""
    grids: tuple[tuple[int, int], ...]
    """H_l, W_l."""
    images: int
    """B."""

    @property
    def starts(self) -> list[int]:
        """The row of ``vectors`` at which each level begins."""
        starts = [0]
        for height, width in self.grids[:-1]:
            starts.append(starts[-1] + self.images * height * width)
        return starts

    @property
    def maps(self) -> list[Tensor]:
        """The pyramid again, (B, C, H_l, W_l) per level, channels last: views, for which nothing is copied."""
        cells = [self.images * height * width for height, width in self.grids]
        return [
            part.view(self.images, height, width, -1).permute(0, 3, 1, 2)
            for part, (height, width) in zip(self.vectors.split(cells), self.grids, strict=True)
        ]


def as_levels(features: Sequence[Tensor]) -> Levels:
    """The table of a pyramid, (B, C, H_l, W_l) per level, best channels last.

    The maps are copied: who keeps the table alone, with its :attr:`Levels.maps`, saves their memory.
    """
    vectors = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in features])
    return Levels(vectors, tuple((x.shape[2], x.shape[3]) for x in features), len(features[0]))


def pick(values: Sequence[float], level: Tensor) -> Tensor:
    """``values[level]``, float32 or int64; a CUDA device waits for the values the first time only."""
    table = _table if torch.compiler.is_compiling() else _kept_table
    return table(tuple(values), level.device)[level]


def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may ask for it after an evaluation
        return torch.tensor(values).to(device)


_kept_table = lru_cache(maxsize=4096)(_table)  # a few hundred canvases have a handful each
