"""Load one labelled image at a time, in a data-loader worker, and put several into a batch.

A sample depends only on (seed, epoch, image), as that of :mod:`detection.data.dataset`.

B images   H x W crop
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detection.data.errors import DataError
from detection.data.image import read_image
from detection.data.labelled import LabelledImages
from detection.data.reading import Reading
from detection.data.unreadable import Unreadable

Transform = Callable[[Tensor], Tensor]
"""A transform of torchvision for images (3, H, W) uint8."""


def centre_square(size: int, resize: int, interpolation: str) -> Transform:
    """Return the transform of evaluation: resize the image, and cut a square from its centre.

    Args:
        size: side of the square in pixels.
        resize: shorter side after resizing.
        interpolation: ``bilinear`` or ``bicubic``, with antialiasing.
    """
    from torchvision.transforms import InterpolationMode, v2  # slower to import than PyTorch

    method = InterpolationMode(interpolation)
    steps: Transform = v2.Compose([v2.Resize(resize, method, antialias=True), v2.CenterCrop(size)])
    return steps


class LabelledBatch(NamedTuple):
    """Images with their labels."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB."""
    labels: Tensor
    """(B,) int64; (B, K) bool for images with several classes."""
    image_ids: Tensor
    """(B,) int64, indices in the data set."""


Sample = tuple[Tensor, int | np.ndarray, int]
"""An image (3, H, W) uint8, its label or, with several classes, (K,) bool, and its index."""


class LabelledDataset(Dataset[Sample]):
    """Labelled images as (image, label, index).

    Args:
        images: files and labels.
        transform: transform of each image; it draws its random numbers from PyTorch's global generator of the CPU.
        seed: seed of the random transforms.
        reading: limits, and how many images may be unreadable.
    """

    def __init__(
        self, images: LabelledImages, transform: Transform, seed: int = 0, reading: Reading = Reading()
    ) -> None:
        self.images, self.transform, self.seed, self.reading = images, transform, seed, reading
        self._unreadable = Unreadable(len(images), reading.bad_images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Return the image (3, H, W) uint8, its label and its index.

        Args:
            key: index of the image, or (index, epoch).

        Raises:
            DataError: the image cannot be read, and the limit ``bad_images`` is reached; or the transform fails on it.
                The message contains the path.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        place = index
        while True:
            try:
                image = self.read(index)
                break
            except ValueError as error:
                index = self._unreadable.replacement(index, error)
        try:
            with random_numbers(self.seed, epoch, place):
                label = self.images.labels[index]
                return self.transform(image), label if self.images.multi_label else int(label), index
        except Exception as error:
            raise DataError(f"{self.path(index)}: augmentation failed with {type(error).__name__}: {error}") from error

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Sample]:
        """Return several samples; PyTorch's loaders call this once per batch."""
        return [self[key] for key in keys]

    def read(self, index: int) -> Tensor:
        """Return an image or its crop, (3, H, W) uint8.

        Raises:
            ValueError: the image cannot be read, or has another size than its annotations say. The message begins with
                the path.
        """
        # OpenCV's own threads would compete with the other workers for the same cores.
        cv2.setNumThreads(0)
        crops, sizes = self.images.crops, self.images.sizes
        size = None if sizes is None else (int(sizes[index, 0]), int(sizes[index, 1]))
        pixels = read_image(self.path(index), size, self.reading.max_pixels)
        if crops is not None:
            left, top, right, bottom = crops[index].tolist()
            pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.images.path(index)

    def bad_images(self) -> list[int]:
        """Return the indices of the images that no worker could read so far."""
        return self._unreadable.indices()


def collate_labelled(samples: Sequence[Sample]) -> LabelledBatch:
    """Put samples of :class:`LabelledDataset` into a batch."""
    images, labels, indices = zip(*samples, strict=True)
    return LabelledBatch(torch.stack(images), torch.from_numpy(np.asarray(labels)), torch.tensor(indices))


@contextmanager
def random_numbers(*key: int) -> Iterator[None]:
    """Seed PyTorch's global generator of the CPU by a key inside the block, and restore its state afterwards."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(zlib.crc32(repr(key).encode()))
    try:
        yield
    finally:
        torch.set_rng_state(before)
