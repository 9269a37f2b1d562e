"""Collect what an evaluation of a classifier keeps of each image, in batches and from several processes."""

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch

Kept = TypeVar("Kept")


class ImageScores(Generic[Kept]):
    """The kept arrays of all images so far; a subclass adds batches as tuples of tensors, and scores them.

    Args:
        classes: names by label.
    """

    kept: Any
    """The class of the named tuple that is kept: ``indices`` come first, and ``losses`` fourth."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._parts: list[Any] = []

    def reset(self) -> None:
        """Discard all images."""
        self._parts = []

    def state(self) -> list[Kept]:
        """Return the images so far as arrays, for other processes."""
        if self._parts and not isinstance(self._parts[0], self.kept):
            columns = [torch.cat(parts).cpu().numpy() for parts in zip(*self._parts, strict=True)]
            columns[3] = columns[3].astype(np.float64)
            self._parts = [self.kept(*columns)]
        return list(self._parts)

    def merge(self, states: Iterable[list[Kept]]) -> None:
        """Replace the images by those of all processes; count each image once."""
        parts: list[Any] = [part for state in states for part in state]
        if not parts:
            return self.reset()
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        _, first = np.unique(columns[0], return_index=True)
        self._parts = [self.kept(*(column[first] for column in columns))]
