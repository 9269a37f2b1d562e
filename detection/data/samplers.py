"""Which images come when: shared out over ranks, grouped by shape, and resumable anywhere.

Training: every rank gets the same number of batches. Evaluation: every image once, on one rank.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

WINDOW = 32
"""Batches among which images are put together by shape: more waste less canvas, and mix images less freely."""


class TrainBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (image number, epoch) in an order that depends on (seed, epoch) and the images per step alone.

    Images of like shape go into one step, which then wastes less of its canvas: the shuffled images are sorted by
    height over width within windows of ``WINDOW`` steps, and the steps shuffled again. However many ranks and
    accumulated batches share a step, it has the same images. What does not fill a step is left out of this epoch,
    another part in each.

    Args:
        sizes: (n, 2) height, width of the images.
        batch_size: per rank.
        group: put like shapes together.
        accumulated: batches of each rank that make one step.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        group: bool = True,
        accumulated: int = 1,
    ) -> None:
        if len(sizes) == 0:
            raise ValueError("there is no image to train on; the annotation file lists none")
        self.shape = np.asarray(sizes)[:, 0] / np.asarray(sizes)[:, 1]
        self.batch_size, self.seed, self.rank, self.world_size, self.group = batch_size, seed, rank, world_size, group
        self.accumulated = accumulated
        self.start(0)

    @property
    def step_images(self) -> int:
        """Images of one step, over all ranks."""
        return self.batch_size * self.world_size * self.accumulated

    def start(self, epoch: int, images: int = 0, step_images: int | None = None) -> None:
        """Begin the next iteration after the first ``images`` images of ``epoch``.

        Args:
            step_images: images per step in the run that has seen them, if that was another one.
        """
        self.epoch, self._images, self._grouped = epoch, images, step_images or self.step_images

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of ``epoch``; the running epoch keeps its position."""
        if epoch != self.epoch:
            self.start(epoch)

    def __len__(self) -> int:
        return self.accumulated * max(1, len(self.shape) // self.step_images)

    def left(self, epoch: int, images: int, step_images: int) -> int:
        """How many batches :meth:`start` with these leaves to do."""
        return len(self._batches(epoch, images, step_images))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, images, grouped = self.epoch, self._images, self._grouped
        self.start(epoch)
        for batch in self._batches(epoch, images, grouped):
            mine = batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            yield [(int(index), epoch) for index in mine]

    def _batches(self, epoch: int, images: int, step_images: int) -> np.ndarray:
        """(batches, world_size * batch_size) image numbers, of whole steps."""
        order = self._order(epoch, step_images)[images:]
        steps = len(order) // self.step_images
        return order[: steps * self.step_images].reshape(-1, self.batch_size * self.world_size)

    def _order(self, epoch: int, step_images: int) -> np.ndarray:
        """Image numbers of the epoch."""
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(len(self.shape))
        if len(order) < step_images:
            return np.resize(order, step_images)  # fewer images than one step: some come twice
        order = order[: len(order) // step_images * step_images]
        if self.group:
            for start in range(0, len(order), WINDOW * step_images):
                window = order[start : start + WINDOW * step_images]
                order[start : start + WINDOW * step_images] = window[np.argsort(self.shape[window], kind="stable")]
        steps = order.reshape(-1, step_images)
        return steps[generator.permutation(len(steps))].ravel()


class EvalBatchSampler(Sampler[list[int]]):
    """Batches of image numbers: every so many-th batch for each rank, nothing twice.

    Images share a batch only where each alone would be padded to the same canvas. So a detector finds in an image what
    it finds in it alone, whatever the batch size: norms over the whole map (group norm) and attention see the padding.
    The batches are the same for any number of ranks, too. A rank for which no batch is left gets the last image again,
    because every rank needs something to do; the evaluator counts an image once.

    Args:
        canvases: (n, 2) height and width to which each image would be padded.
    """

    def __init__(self, canvases: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, canvas in enumerate(canvases.tolist()):
            alike[tuple(canvas)].append(number)
        batches = [
            numbers[start : start + batch_size]
            for numbers in alike.values()
            for start in range(0, len(numbers), batch_size)
        ]
        batches.sort()  # by their first images
        self.batches = batches[rank::world_size] or [[len(canvases) - 1]][: len(canvases)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
