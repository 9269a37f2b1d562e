"""Which images come when: shared out over ranks, grouped by shape, and resumable anywhere.

Training: every rank gets the same number of batches. Evaluation: every image once, on one rank.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

WINDOW = 32
"""Batches among which images are put together by shape: more waste less canvas, and mix images less freely."""


class TrainBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (image number, epoch) in an order that depends on (seed, epoch) alone.

    Images of like shape go into one batch, which then wastes less of its canvas: the shuffled images are sorted by
    height over width within windows of ``WINDOW`` batches, and the batches shuffled again. What does not fill a batch
    of all ranks is left out of this epoch, another part in each.

    Args:
        sizes: (n, 2) height, width of the images.
        batch_size: per rank.
        group: put like shapes together.
    """

    def __init__(
        self, sizes: np.ndarray, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1, group: bool = True
    ) -> None:
        if len(sizes) == 0:
            raise ValueError("there is no image to train on; the annotation file lists none")
        self.shape = np.asarray(sizes)[:, 0] / np.asarray(sizes)[:, 1]
        self.batch_size, self.seed, self.rank, self.world_size, self.group = batch_size, seed, rank, world_size, group
        self.epoch, self.position = 0, 0

    def start(self, epoch: int, position: int = 0) -> None:
        """Begin the next iteration at batch ``position`` of ``epoch``."""
        self.epoch, self.position = epoch, position

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of ``epoch``; the running epoch keeps its position."""
        if epoch != self.epoch:
            self.start(epoch)

    def __len__(self) -> int:
        return max(1, len(self.shape) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, position = self.epoch, self.position
        self.position = 0
        for batch in self._batches(epoch)[position:]:
            mine = batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            yield [(int(index), epoch) for index in mine]

    def _batches(self, epoch: int) -> np.ndarray:
        """(batches, world_size * batch_size) image numbers."""
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(len(self.shape))
        together = self.batch_size * self.world_size
        if len(order) < together:
            return np.resize(order, (1, together))  # fewer images than one batch: some come twice
        order = order[: len(order) // together * together]
        if self.group:
            for start in range(0, len(order), WINDOW * together):
                window = order[start : start + WINDOW * together]
                order[start : start + WINDOW * together] = window[np.argsort(self.shape[window], kind="stable")]
        batches = order.reshape(-1, together)
        return batches[generator.permutation(len(batches))]


class EvalBatchSampler(Sampler[list[int]]):
    """Batches of image numbers: every so many-th batch for each rank, nothing twice.

    The batches are the same for any number of ranks, and so is what a detector finds, to the last bit. A rank for
    which no batch is left gets the last image again, because every rank needs something to do; the evaluator counts an
    image once.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        starts = range(0, length, batch_size)
        self.starts = starts[rank::world_size] or range(max(0, length - 1), length)
        self.length, self.batch_size = length, batch_size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield list(range(start, min(start + self.batch_size, self.length)))
