"""One benchmark in its own process: one contestant, one size, one precision, training or inference."""

import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._pytree import tree_map

from detection.device import best_device
from detection.fast.rcnn import compile_model
from detection.memory import begin_training, finest_map, glibc_setting, go_on_training, keep_freed_memory
from detection.structures import Batch
from tools.benchmark.apart import Apart
from tools.benchmark.contestants import KEYPOINTS, Ours, equalise, pair, pinned
from tools.benchmark.data import batches, open_data, persons

What = Literal["train", "infer"]

PEERS = ("torchvision", "detectron2")


class Alone:
    """A contestant with its batch; this toolkit uses its own settings of glibc, the peers use the defaults."""

    def __init__(self, options: Namespace, who: str, size: int, precision: str, what: What) -> None:
        self.settle = prepare(options, who, size, precision, what)
        self.what, self.batch, device = what, own_batch(options, size), best_device()
        self.chosen: Any
        if who == "detectron2":
            from tools.benchmark.detectron2 import detectron2

            self.chosen = detectron2(options.backbone, device, options.peer_precision, self.batch)
            return
        ours, peer = pair(options.backbone, device, precision, options.peer_precision, options.detector)
        if options.compile:
            compile_model(ours.model, graphs=options.compile == "graphs")
        equalise(ours, peer, self.batch)
        self.chosen = ours if who == "ours" else peer

    def step(self) -> None:
        """Run one step and wait until it has finished."""
        getattr(self.chosen, self.what)(self.batch)
        self.settle()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def shares(self) -> dict[str, float]:
        """Return the seconds of each part of a step, for this toolkit only."""
        assert isinstance(self.chosen, Ours)
        return self.chosen.shares(getattr(self.chosen, self.what), self.batch)

    def numbers(self) -> list[int]:
        """Return the number of detections of each image."""
        numbers: list[int] = self.chosen.numbers(self.batch)
        return numbers


def apart(make: Callable[..., Any], options: Namespace, who: str, *more: Any) -> Apart:
    """Run ``make(options, who, *more)`` in a new process; this toolkit gets the environment of its commands."""
    return Apart(make, options, who, *more, environment={} if who in PEERS else glibc_setting())


def prepare(options: Namespace, who: str, size: int, precision: str, what: What) -> Callable[[], object]:
    """Set the number of threads, and for this toolkit glibc as its commands do. Call it before large allocations.

    Returns:
        A function to call after each step.
    """
    torch.set_num_threads(options.threads)
    if who in PEERS or best_device().type != "cpu":
        return lambda: None
    if what == "infer":
        keep_freed_memory()
        return lambda: None
    begin_training()
    return partial(go_on_training, finest_map(options.batch, size, size * 1333 / 800, 256, precision))


def own_batch(options: Namespace, size: int) -> Batch:
    """Return a batch of the first images with objects."""
    with tempfile.TemporaryDirectory() as folder:
        annotations, images = open_data(options.annotations, options.images, Path(folder))
        batch = batches(annotations, images, size, options.batch, 1)[0]
        if options.detector == "keypoint_rcnn":
            batch = persons(batch, KEYPOINTS)
        pinned_batch: Batch = tree_map(pinned, batch)
        return pinned_batch
