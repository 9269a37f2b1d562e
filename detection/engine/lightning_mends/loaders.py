"""Loaders that begin an epoch where they should, and that Lightning leaves as they are."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

from detection.data.collate import collate
from detection.data.dataset import CocoDataset, Together
from detection.data.samplers import TrainBatchSampler


class EpochLoader(DataLoader[Any]):
    """A loader that asks where to begin whenever it starts an iteration.

    Lightning sets the epoch of samplers only after it has started the workers. In a resumed run these would load the
    images of epoch 0 first.

    Args:
        begin: gives the arguments of :meth:`TrainBatchSampler.start`.
    """

    def __init__(
        self, dataset: CocoDataset, sampler: TrainBatchSampler, begin: Callable[[], tuple[int, int, int]], **kwargs: Any
    ) -> None:
        super().__init__(dataset, batch_sampler=sampler, **kwargs)
        self._begin, self._sampler = begin, sampler

    def __iter__(self) -> Any:
        self._sampler.start(*self._begin())
        return super().__iter__()


def evaluation_loader(dataset: CocoDataset, batches: Iterable[list[int]], **options: Any) -> DataLoader[Any]:
    """A loader of whole batches.

    Each batch is a single item for PyTorch: Lightning wraps the batch sampler of loaders that predict, and warns of any
    class but PyTorch's own.

    Args:
        batches: numbers of the images of each.
    """
    return DataLoader(Together(dataset), sampler=batches, batch_size=None, collate_fn=collate, **options)


def seed_worker(number: int, rank: int) -> None:
    """Seed a worker as Lightning seeds workers that have no function of their own to begin with."""
    if int(os.environ.get("PL_SEED_WORKERS", "0")):
        pl_worker_init_function(number, rank)
