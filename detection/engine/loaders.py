"""The loaders of a data module: in which batches and by how many workers images come."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from detection.data.collate import canvas_of, collate, collate_unresized, own_canvases
from detection.data.dataset import begin_worker
from detection.data.samplers import EvalBatchSampler, TrainBatchSampler
from detection.engine.errors import InputError
from detection.engine.lightning_mends.loaders import EpochLoader, evaluation_loader, seed_worker
from detection.engine.listener import ignore_signals
from detection.engine.loading import (
    allow_open_files,
    batch_bytes,
    largest_canvas,
    workers_that_fit,
)
from detection.engine.splits import Splits
from detection.wording import plural

WORKER_TIMEOUT = 600
"""Seconds after which a worker that delivers nothing counts as hung."""


class Share(NamedTuple):
    """The part of a step that one process computes."""

    world_size: int
    """Processes, each with one device."""
    rank: int
    accumulated: int
    """Batches of each process that make a step."""
    pin_memory: bool
    """Whether batches go to a GPU."""

    def images(self, batch_size: int) -> int:
        """Images per process and batch.

        Args:
            batch_size: images of a step.

        Raises:
            InputError: the images of a step cannot be divided among devices and accumulated batches.
        """
        parts = self.world_size * self.accumulated
        if batch_size % parts:
            fitting = [size for size in (batch_size // parts * parts, -(-batch_size // parts) * parts) if size]
            raise InputError(
                f"data.batch_size {batch_size} cannot be divided among {plural(self.world_size, 'device')} x "
                f"{plural(self.accumulated, 'accumulated batch')}; try {' or '.join(map(str, fitting))}"
            )
        return batch_size // parts


class Loaders:
    """Makes samplers and loaders.

    Args:
        splits: the images; their settings say how they are loaded.
    """

    def __init__(self, splits: Splits) -> None:
        self.splits, self.config = splits, splits.config

    def train_sampler(self, share: Share) -> TrainBatchSampler:
        """The order of the training images, and those of this process."""
        sizes, images = self.splits.annotations["train"].sizes, share.images(self.config.batch_size)
        return TrainBatchSampler(
            sizes, images, self.config.seed, share.rank, share.world_size, accumulated=share.accumulated
        )

    def train(
        self, share: Share, begin: Callable[[], tuple[int, int, int]], calm_from: int | None = None
    ) -> DataLoader[Any]:
        """The loader of the training.

        Args:
            begin: gives the arguments of :meth:`TrainBatchSampler.start` for each epoch.
            calm_from: the first epoch without the strong augmentation; none if None.
        """
        later = self.config.resize_on_device
        together = partial(collate_unresized if later else collate, canvases=self.config.canvases)
        data, sampler = self.splits.dataset("train", later, calm_from), self.train_sampler(share)
        return EpochLoader(data, sampler, begin, collate_fn=together, **self._options("train", share))

    def evaluation(self, split: str, share: Share) -> DataLoader[Any]:
        """The loader of an evaluation."""
        data, canvases = self.splits.dataset(split), self.canvases(split)
        batches = EvalBatchSampler(canvases, self.config.eval_batch_size, share.rank, share.world_size)
        return evaluation_loader(data, batches, **self._options(split, share))

    def canvases(self, split: str) -> np.ndarray:
        """(n, 2) height and width to which an evaluation pads each image."""
        return own_canvases(self.splits.annotations[split].sizes, self.config.test_resize)

    def _options(self, split: str, share: Share) -> dict[str, Any]:
        """Workers, how they begin, and how long they may take."""
        workers = self._workers(split, share)
        return {
            "num_workers": workers,
            "worker_init_fn": partial(begin_training_worker, rank=share.rank),
            "pin_memory": share.pin_memory,
            "timeout": WORKER_TIMEOUT if workers else 0,
        }

    def _workers(self, split: str, share: Share) -> int:
        """As many workers as were asked for, or as many as have room for their batches in the shared memory."""
        config, annotations, trains = self.config, self.splits.annotations[split], split == "train"
        sizes = np.minimum(annotations.sizes, config.crop) if config.crop and trains else annotations.sizes
        canvas = largest_canvas(sizes, config.test_resize)
        if config.resize_on_device and trains:
            canvas = tuple(np.maximum(canvas, sizes.max(axis=0, initial=1)).tolist())
        if config.jitter and trains:
            canvas = tuple(np.maximum(canvas, canvas_of([config.jitter.size])).tolist())
        images = share.images(config.batch_size) if trains else config.eval_batch_size
        pixel_bytes = config.channels * config.depth // 8
        objects = int(annotations.counts().max(initial=0)) * (2 ** len(config.mixes) if trains else 1)
        allow_open_files()
        batch = batch_bytes(images, canvas, objects, config.masks, pixel_bytes=pixel_bytes)
        return workers_that_fit(config.workers, batch)


def begin_training_worker(number: int, rank: int) -> None:
    """Prepare a worker's process: its seeds, its memory, and its signals."""
    seed_worker(number, rank)
    begin_worker(number)
    ignore_signals()
