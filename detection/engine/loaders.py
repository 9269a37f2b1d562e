"""Build the samplers and loaders of a data module: batches, order of the images, and number of workers."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader

from detection.data.collate import canvas_of, collate, collate_unresized, own_canvases
from detection.data.dataset import begin_worker
from detection.data.samplers import EvalBatchSampler, TrainBatchSampler
from detection.engine.lightning_mends.loaders import EpochLoader, evaluation_loader, seed_worker
from detection.engine.listener import ignore_signals
from detection.engine.loading import (
    allow_open_files,
    batch_bytes,
    largest_canvas,
    workers_that_fit,
)
from detection.engine.share import Share

if TYPE_CHECKING:
    from detection.engine.splits import Splits

WORKER_TIMEOUT = 600
"""Seconds without a batch after which a worker counts as hung."""


class Loaders:
    """Build samplers and loaders.

    Args:
        splits: data sets of the splits, with the settings of the loaders.
    """

    def __init__(self, splits: "Splits") -> None:
        self.splits, self.config = splits, splits.config

    def train_sampler(self, share: Share) -> TrainBatchSampler:
        """Return the sampler of the training images, for the batches of this process."""
        sizes, images = self.splits.annotations["train"].sizes, share.images(self.config.batch_size)
        return TrainBatchSampler(
            sizes, images, self.config.seed, share.rank, share.world_size, accumulated=share.accumulated
        )

    def train(
        self, share: Share, begin: Callable[[], tuple[int, int, int]], calm_from: int | None = None
    ) -> DataLoader[Any]:
        """Return the loader for training.

        Args:
            begin: function that returns the arguments of :meth:`TrainBatchSampler.start` for each epoch.
            calm_from: first epoch without strong augmentation; None: there is no such epoch.
        """
        later = self.config.resize_on_device
        together = partial(collate_unresized if later else collate, canvases=self.config.canvases)
        data, sampler = self.splits.dataset("train", later, calm_from), self.train_sampler(share)
        return EpochLoader(data, sampler, begin, collate_fn=together, **self._options("train", share))

    def evaluation(self, split: str, share: Share) -> DataLoader[Any]:
        """Return the loader for an evaluation of a split."""
        data, canvases = self.splits.dataset(split), self.canvases(split)
        batches = EvalBatchSampler(canvases, self.config.eval_batch_size, share.rank, share.world_size)
        return evaluation_loader(data, batches, **self._options(split, share))

    def canvases(self, split: str) -> np.ndarray:
        """Return (n, 2) height and width to which an evaluation pads each image of a split."""
        return own_canvases(self.splits.annotations[split].sizes, self.config.test_resize)

    def _options(self, split: str, share: Share) -> dict[str, Any]:
        """Return the arguments of ``DataLoader`` about workers, their timeout and pinned memory."""
        workers = self._workers(split, share)
        return {
            "num_workers": workers,
            "worker_init_fn": partial(begin_training_worker, rank=share.rank),
            "pin_memory": share.pin_memory,
            "timeout": WORKER_TIMEOUT if workers else 0,
        }

    def _workers(self, split: str, share: Share) -> int:
        """Return ``data.workers``, or fewer if the shared memory has no room for the batches of all of them."""
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
        keypoints = annotations.categories.keypoints if config.keypoints else 0
        batch = batch_bytes(images, canvas, objects, config.masks, pixel_bytes=pixel_bytes, keypoints=keypoints)
        return workers_that_fit(config.workers, batch)


def begin_training_worker(number: int, rank: int) -> None:
    """Prepare a worker process: set its seeds and its memory allocator, and ignore signals."""
    seed_worker(number, rank)
    begin_worker(number)
    ignore_signals()
