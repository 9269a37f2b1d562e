"""The transforms of a data set: which ones an epoch uses, and at which size its images can be decoded."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detection.data.jitter import LargeScaleJitter, Zoom
from detection.data.mixing import Mix
from detection.data.photometric import PhotometricDistortion
from detection.data.transforms import HorizontalFlip, Resize, Transform

Step = Transform | Mix

SMALLEST = 8
"""JPEG decoders reduce an image at most to this part of its sides."""


class Late(NamedTuple):
    """The transforms of the last epochs."""

    epoch: int
    """The first of them, counted from 0."""
    transforms: Sequence[Step]


class Pipeline:
    """Transforms in their order.

    Args:
        transforms: those of all epochs, or of all before ``late``.
        late: those of the last epochs, if they are others.
        draft: whether large images may be decoded at a reduced size.
    """

    def __init__(self, transforms: Sequence[Step], late: Late | None = None, draft: bool = False) -> None:
        self.transforms, self.late, self.draft = list(transforms), late, draft

    def decided(self, epoch: int, generator: np.random.Generator, before: int | None = None) -> list[Step]:
        """Return the transforms of a sample, with the choices that must be made before its image is read.

        Args:
            before: those before this one alone, and none that takes further images.
        """
        steps = self.late.transforms if self.late is not None and epoch >= self.late.epoch else self.transforms
        kept = steps if before is None else [step for step in steps[:before] if not isinstance(step, Mix)]
        return [step.decide(generator) if isinstance(step, LargeScaleJitter) else step for step in kept]

    def reduction(self, steps: Sequence[Step], height: int, width: int) -> int:
        """Return the part of its sides, 1, 2, 4 or 8, at which an image of that size can be decoded.

        It stays at least as large as the transforms make it.
        """
        # Other transforms may count in pixels of the file.
        simple = HorizontalFlip | Resize | Zoom | Mix | PhotometricDistortion
        factors = [step.factor(height, width) for step in steps if isinstance(step, Resize | Zoom | Mix)]
        reduced = 1
        if self.draft and any(factors) and all(isinstance(step, simple) for step in steps):
            while reduced < SMALLEST and 2 * reduced * max(factors) <= 1:
                reduced *= 2
        return reduced
