"""Combine samples of different sizes into one padded batch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from detection.data.sample import Sample, Unresized
from detection.data.transforms import Resize
from detection.structures import IGNORE, UNLABELLED, Batch, Targets

MIN_OBJECTS = 16
"""Smallest number of object slots per image. Larger batches use powers of two, so that few tensor shapes occur."""


def collate(samples: Sequence[Sample], divisor: int = 32, canvases: Sequence[tuple[int, int]] | None = None) -> Batch:
    """Place each image at the top left of one common canvas, and pad the objects.

    Args:
        samples: samples that either all have masks, or all have none; the same for keypoints.
        divisor: the sides of the canvas are multiples of this number.
        canvases: allowed (height, width) pairs. The function takes the smallest one that holds all images. If none is
            large enough, it computes a canvas from ``divisor``.

    Returns:
        A batch. Its images are channels-last in memory.

    Raises:
        ValueError: the device still has to resize or flip an image. Use :func:`collate_unresized` then.
    """
    if any(sample.wanted or sample.mirrored for sample in samples):
        raise ValueError("collate: the device still has to resize or flip these images; use collate_unresized instead")
    sizes = [_size(sample) for sample in samples]
    canvas = canvas_of(sizes, divisor, canvases)
    return _pack(samples, sizes, canvas, canvas)


def collate_unresized(
    samples: Sequence[Sample], divisor: int = 32, canvases: Sequence[tuple[int, int]] | None = None
) -> Unresized:
    """Collate samples whose images the device will resize and flip; otherwise like :func:`collate`."""
    stored, wanted = [_size(sample) for sample in samples], [sample.wanted or _size(sample) for sample in samples]
    canvas = canvas_of(wanted, divisor, canvases)
    batch = _pack(samples, wanted, canvas_of(stored, 1, None), canvas)
    mirrored = torch.tensor([sample.mirrored for sample in samples])
    return Unresized(batch, torch.tensor(stored), mirrored, torch.tensor(canvas))


def _pack(
    samples: Sequence[Sample],
    sizes: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    resized_canvas: tuple[int, int],
) -> Batch:
    """Pack samples into a batch.

    Args:
        samples: the samples.
        sizes: become ``Batch.sizes``.
        canvas: height, width of the batch's images.
        resized_canvas: height, width of its semantic maps, which is that of the images after resizing.
    """
    images = _zeros((len(samples), *canvas, samples[0].image.shape[2]), samples[0].image.dtype)
    room = MIN_OBJECTS
    while room < max(len(sample.labels) for sample in samples):
        room *= 2
    boxes = np.zeros((len(samples), room, 4), dtype=np.float32)
    labels = np.full((len(samples), room), IGNORE, dtype=np.int64)
    crowd = np.zeros((len(samples), room), dtype=bool)
    masked = [sample.masks for sample in samples if sample.masks is not None]
    masks = _zeros((len(samples), room, *masked[0].shape[1:]), np.dtype(np.uint8)) if masked else None
    pointed = [sample.keypoints for sample in samples if sample.keypoints is not None]
    keypoints = np.zeros((len(samples), room, *pointed[0].shape[1:]), dtype=np.float32) if pointed else None
    semantic = None
    if any(sample.semantic is not None for sample in samples):
        semantic = _zeros((len(samples), *resized_canvas), np.dtype(np.uint8)).fill_(UNLABELLED)
    for i, sample in enumerate(samples):
        rows, columns = sample.image.shape[:2]
        count = len(sample.labels)
        images.numpy()[i, :rows, :columns] = sample.image
        boxes[i, :count], labels[i, :count], crowd[i, :count] = sample.boxes, sample.labels, sample.crowd
        if masks is not None and sample.masks is not None:
            masks.numpy()[i, :count] = sample.masks
        if keypoints is not None and sample.keypoints is not None:
            keypoints[i, :count] = sample.keypoints
        if semantic is not None and sample.semantic is not None:
            height, width = sample.semantic.shape
            semantic.numpy()[i, :height, :width] = sample.semantic
    return Batch(
        images.permute(0, 3, 1, 2),
        torch.tensor(sizes, dtype=torch.int64),
        torch.tensor([sample.original_size for sample in samples], dtype=torch.int64),
        torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
        Targets(
            torch.from_numpy(boxes),
            torch.from_numpy(labels),
            torch.from_numpy(crowd),
            masks,
            None if keypoints is None else torch.from_numpy(keypoints),
            semantic,
        ),
    )


def _zeros(shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    """Return a zero tensor; in a worker, place it in shared memory, so that PyTorch need not copy it there."""
    if get_worker_info() is None:
        return torch.from_numpy(np.zeros(shape, dtype))
    memory = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # the system returns zeroed memory
    return torch.from_numpy(np.zeros(0, dtype)).set_(memory).view(*shape)


def canvas_of(
    sizes: Sequence[tuple[int, int]], divisor: int = 32, canvases: Sequence[tuple[int, int]] | None = None
) -> tuple[int, int]:
    """Return (height, width) of the canvas that :func:`collate` uses for images of these sizes."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    fitting = [canvas for canvas in canvases or () if canvas[0] >= height and canvas[1] >= width]
    if fitting:
        return min(fitting, key=lambda canvas: canvas[0] * canvas[1])
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def own_canvases(sizes: np.ndarray, resize: Resize, divisor: int = 32) -> np.ndarray:
    """Return the canvas of each image in a batch of its own.

    Args:
        sizes: (n, 2) height, width of the files.
        resize: the resizing that comes before collating.
        divisor: as in :func:`collate`.

    Returns:
        (n, 2) int64 height, width.
    """
    own = [canvas_of([resize.size(height, width)], divisor) for height, width in sizes.tolist()]
    return np.array(own, dtype=np.int64).reshape(-1, 2)


def _size(sample: Sample) -> tuple[int, int]:
    height, width = sample.image.shape[:2]
    return height, width


def few_canvases_for(short_side: int, long_side: int, divisor: int = 32) -> list[tuple[int, int]]:
    """Return a few canvas sizes that together hold every resized image with little padding.

    The list has landscape canvases, portrait canvases, and one square canvas for batches that mix both. Most images
    of COCO have an aspect ratio of 4:3 or 3:2. Longer images get a canvas with ``long_side``.
    """
    short, long = (math.ceil(side / divisor) * divisor for side in (short_side, long_side))
    middle = (math.ceil(short_side * ratio / divisor) * divisor for ratio in (1.34, 1.51))
    longer = sorted({min(side, long) for side in (*middle, long)})
    return [(short, side) for side in longer] + [(side, short) for side in longer] + [(long, long)]
