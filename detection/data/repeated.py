"""Repeated augmentation: batches with several augmented copies of each image.

Hoffer et al. 2020, "Augment your batch"; Berman et al. 2019, "MultiGrain", section 3.3.
"""

from collections.abc import Iterator

import numpy as np

from detection.data.samplers import TrainBatchSampler


class RepeatedBatchSampler(TrainBatchSampler):
    """Yield batches of (image index, key) in which each optimizer step has ``repeats`` copies of its images.

    The key of a copy is epoch * repeats + number of the copy, so that its random transforms differ. An epoch has as
    many steps as without copies, and therefore only a part of the images, others in each epoch. The copies of an image
    are far from one another in a step: several devices share them, and mixing pairs different images.

    Args:
        repeats: copies of each image in a step.
        others: arguments of :class:`~detection.data.samplers.TrainBatchSampler`; ``group`` must be False.
    """

    def __init__(self, sizes: np.ndarray, batch_size: int, repeats: int, **others: int) -> None:
        self.repeats = repeats
        super().__init__(sizes, batch_size, group=False, **others)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        images = len(self.shape)
        for batch in super().__iter__():
            yield [(code % images, epoch * self.repeats + code // images) for code, epoch in batch]

    def _order(self, epoch: int, step_images: int) -> np.ndarray:
        """Return index + images * number of the copy, for each place of the epoch."""
        order, images = super()._order(epoch, step_images), len(self.shape)
        unique = -(-step_images // self.repeats)  # images of a step
        steps = len(order) // step_images
        chosen = order[: steps * unique]
        copies = images * np.arange(self.repeats)
        codes = chosen.reshape(steps, 1, unique) + copies[None, :, None]
        return codes.reshape(steps, -1)[:, :step_images].ravel()
