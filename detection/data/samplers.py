"""Batch samplers: distribute images over ranks, group them by aspect ratio, and resume in the middle of an epoch.

In training, every rank gets the same number of batches. In evaluation, exactly one rank gets each image, once.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

WINDOW = 32
"""Steps per window for aspect-ratio grouping. A larger window needs less padding, but shuffles images less."""


class TrainBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yield batches of (image index, epoch). The order depends only on the seed, the epoch and the images per step.

    The sampler groups images of similar aspect ratio, to reduce padding. It shuffles the images, sorts them by height
    over width within windows of ``WINDOW`` steps, and then shuffles the steps. A step has the same images for any
    number of ranks and accumulated batches. An epoch leaves out the images that do not fill a whole step; these are
    different images in each epoch.

    Args:
        sizes: (n, 2) height, width of the images.
        batch_size: images per batch and rank.
        seed: seed of the order.
        rank: rank of this process.
        world_size: number of ranks.
        group: group images by aspect ratio.
        accumulated: batches of each rank per optimizer step.

    Raises:
        ValueError: there are no images.
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
            raise ValueError("no training images: the annotation file lists none; add images to it")
        self.shape = np.asarray(sizes)[:, 0] / np.asarray(sizes)[:, 1]
        self.batch_size, self.seed, self.rank, self.world_size, self.group = batch_size, seed, rank, world_size, group
        self.accumulated = accumulated
        self.start(0)

    @property
    def step_images(self) -> int:
        """Images per optimizer step, over all ranks."""
        return self.batch_size * self.world_size * self.accumulated

    def start(self, epoch: int, images: int = 0, step_images: int | None = None) -> None:
        """Begin the next iteration after the first ``images`` images of ``epoch``.

        Args:
            epoch: epoch to begin or to resume.
            images: number of images of this epoch that training has seen already.
            step_images: images per step in the run that has seen them, if it differs from this run.
        """
        self.epoch, self._images, self._grouped = epoch, images, step_images or self.step_images

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of ``epoch``; if it is the current epoch, keep the position."""
        if epoch != self.epoch:
            self.start(epoch)

    def __len__(self) -> int:
        return self.accumulated * max(1, len(self.shape) // self.step_images)

    def left(self, epoch: int, images: int, step_images: int) -> int:
        """Return the number of batches that remain after :meth:`start` with the same arguments."""
        return len(self._batches(epoch, images, step_images))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, images, grouped = self.epoch, self._images, self._grouped
        self.start(epoch)
        for batch in self._batches(epoch, images, grouped):
            mine = batch[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            yield [(int(index), epoch) for index in mine]

    def _batches(self, epoch: int, images: int, step_images: int) -> np.ndarray:
        """Return image indices (batches, world_size * batch_size), a whole number of steps."""
        order = self._order(epoch, step_images)[images:]
        steps = len(order) // self.step_images
        return order[: steps * self.step_images].reshape(-1, self.batch_size * self.world_size)

    def _order(self, epoch: int, step_images: int) -> np.ndarray:
        """Return the image indices of the epoch in order."""
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(len(self.shape))
        if len(order) < step_images:
            return np.resize(order, step_images)  # fewer images than one step needs: some occur twice
        order = order[: len(order) // step_images * step_images]
        if self.group:
            for start in range(0, len(order), WINDOW * step_images):
                window = order[start : start + WINDOW * step_images]
                order[start : start + WINDOW * step_images] = window[np.argsort(self.shape[window], kind="stable")]
        steps = order.reshape(-1, step_images)
        return steps[generator.permutation(len(steps))].ravel()


class EvalBatchSampler(Sampler[list[int]]):
    """Yield batches of image indices, distributed over the ranks; no image occurs in two batches.

    A batch contains only images that would be padded to the same canvas on their own. So predictions do not depend on
    the batch size, although group norm and attention see the padding. The batches are also the same for any number of
    ranks. If there are fewer batches than ranks, the remaining ranks get the last image again, because every rank needs
    a batch. The evaluator counts each image once.

    Args:
        canvases: (n, 2) height and width to which each image would be padded.
        batch_size: images per batch.
        rank: rank of this process.
        world_size: number of ranks.
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
        batches.sort()  # by the first image of each
        self.batches = batches[rank::world_size] or [[len(canvases) - 1]][: len(canvases)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
