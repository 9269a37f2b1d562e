"""Loaders that start an epoch at the right image, and that Lightning does not replace or warn about."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader, Dataset

from detection.data.collate import collate
from detection.data.samplers import TrainBatchSampler
from detection.data.together import Images, Together


class EpochLoader(DataLoader[Any]):
    """Set the epoch and the first image of the sampler at the start of each iteration.

    Lightning sets the epoch of samplers only after it has started the workers. In a resumed run, the workers would load
    the images of epoch 0 first.

    Args:
        begin: function that returns the arguments of :meth:`TrainBatchSampler.start`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: TrainBatchSampler,
        begin: Callable[[], tuple[int, int, int]],
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset, batch_sampler=sampler, **kwargs)
        self._begin, self._sampler = begin, sampler

    def __iter__(self) -> Any:
        self._sampler.start(*self._begin())
        return super().__iter__()


def evaluation_loader(
    dataset: Images, batches: Iterable[list[int]], collate_fn: Callable[[list[Any]], Any] = collate, **options: Any
) -> DataLoader[Any]:
    """Return a loader whose data set items are whole batches.

    Lightning replaces the batch sampler of a loader for prediction, and warns about any class but PyTorch's own. This
    loader has no batch sampler.

    Args:
        batches: indices of the images of each batch.
        collate_fn: function that puts samples into a batch.
    """
    return DataLoader(Together(dataset), sampler=batches, batch_size=None, collate_fn=collate_fn, **options)


def seed_worker(number: int, rank: int) -> None:
    """Seed a worker as Lightning does for loaders without a ``worker_init_fn``."""
    if int(os.environ.get("PL_SEED_WORKERS", "0")):
        pl_worker_init_function(number, rank)
