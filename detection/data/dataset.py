"""Images with their objects, one at a time, in a worker.

The sample of an image depends on (seed, epoch, image) and on nothing else: not on the worker, the rank, the order, or
where training was resumed.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from detection.coco.annotations import Annotations
from detection.data.errors import DataError
from detection.data.handover import tell_the_training
from detection.data.image import read_image
from detection.data.names import advice, find_file, leads_out
from detection.data.reading import Reading
from detection.data.sample import Sample
from detection.data.transforms import HorizontalFlip, Resize, Scene, Transform, draw_masks
from detection.home import with_home
from detection.memory import keep_freed_pieces

__all__ = ["CocoDataset", "Together", "begin_worker", "read_image"]


class CocoDataset(Dataset[Sample]):
    """Annotated images as :class:`~detection.structures.Sample`.

    Args:
        annotations: from :func:`~detection.coco.annotations.load_annotations`.
        image_root: the folder that file names begin at.
        transforms: in this order.
        masks: make bitmaps for a mask head.
        seed: of the augmentation.
        reading: limits, and how many images may be unreadable.
        draft: decode JPEGs much larger than what they are resized to at a half, a quarter or an eighth of their size:
            faster, but not to the last bit what decoding them whole would give.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_root: str | Path,
        transforms: Sequence[Transform] = (),
        masks: bool = False,
        seed: int = 0,
        mask_size: int = 112,
        reading: Reading = Reading(),
        draft: bool = False,
    ) -> None:
        self.annotations, self.image_root = annotations, Path(with_home(image_root))
        self.transforms, self.masks, self.seed = list(transforms), masks, seed
        self.mask_size, self.reading = mask_size, reading
        # Shared with the workers, so that they have one budget together.
        self._bad = torch.zeros(len(annotations) if reading.bad_images else 0, dtype=torch.bool).share_memory_()
        self._now = torch.full((64, 2), -1).share_memory_()
        # Other transforms may count in pixels of the file.
        simple = all(isinstance(transform, HorizontalFlip | Resize) for transform in transforms)
        sides = [max(transform.short_sides) for transform in transforms if isinstance(transform, Resize)]
        whole = reading.channels != 3 or reading.depth != 8
        self._draft_side = min(sides) if draft and simple and sides and not whole else None

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The sample of an image.

        Args:
            key: the image's number, or (number, epoch).

        Raises:
            DataError: the image cannot be read or has another size than its annotations say, and more images than
                may be are so; or a transform fails on it; with its path.
        """
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Sample]:
        """Several samples, whose masks are drawn together; PyTorch's loaders ask for those of a batch.

        Raises:
            DataError: as for one.
        """
        found = [self._augmented(*key) if isinstance(key, tuple) else self._augmented(key, 0) for key in keys]
        masks: Sequence[np.ndarray | None] = [None] * len(found)
        if self.masks:
            with self._named(*(index for index, _ in found)):
                masks = draw_masks([scene for _, scene in found], self.mask_size)
        self._note(-1)
        return [self._sample(index, scene, drawn) for (index, scene), drawn in zip(found, masks, strict=True)]

    def _augmented(self, index: int, epoch: int) -> tuple[int, Scene]:
        """The scene of an image, or of one in its place, after all transforms."""
        self._note(index)
        index, scene = self._readable_scene(index)
        generator = np.random.default_rng((self.seed, epoch, index))
        with self._named(index):
            for transform in self.transforms:
                scene = transform(scene, generator)
        return index, scene

    @contextmanager
    def _named(self, *indices: int) -> Iterator[None]:
        """An error in here names the images."""
        try:
            yield
        except Exception as error:
            raise DataError(
                f"{', '.join(str(self.path(i)) for i in indices)}: augmenting it fails with {type(error).__name__}: "
                f"{error}; correct data.augment, or see the place with --debug"
            ) from error

    def _sample(self, index: int, scene: Scene, masks: np.ndarray | None) -> Sample:
        height, width = (int(side) for side in self.annotations.sizes[index])
        return Sample(
            image=scene.image,
            image_id=int(self.annotations.image_ids[index]),
            original_size=(height, width),
            boxes=scene.boxes.astype(np.float32),
            labels=scene.labels,
            crowd=scene.crowd,
            masks=masks,
            wanted=scene.wanted,
            mirrored=scene.mirrored,
        )

    def scene(self, index: int) -> Scene:
        """The image and its objects as the files have them, or reduced by a draft."""
        height, width = (int(side) for side in self.annotations.sizes[index])
        # OpenCV's own threads would fight with the other workers over the same cores.
        cv2.setNumThreads(0)
        boxes = self.annotations.boxes(index)
        reduce = 1
        while self._draft_side is not None and reduce < 8 and min(height, width) >= 2 * reduce * self._draft_side:
            reduce *= 2
        image = read_image(
            self.path(index),
            (height, width),
            self.reading.max_pixels,
            reduce,
            self.reading.channels,
            self.reading.depth,
        )
        scene = Scene(
            image=image,
            boxes=boxes.astype(np.float64),
            labels=self.annotations.labels(index),
            crowd=self.annotations.crowd(index),
            segmentations=[self.annotations.segmentation(index, k) for k in range(len(boxes))],
        )
        if image.shape[:2] == (height, width):
            return scene
        return scene.moved(image, (image.shape[1] / width, image.shape[0] / height), (0, 0))

    def bad_images(self) -> list[int]:
        """Numbers of the images that could not be read so far, in all workers."""
        return self._bad.nonzero().flatten().tolist()

    def reading_now(self) -> dict[int, tuple[int, int]]:
        """By worker: its process id, and the number of the image that it is working on, or -1."""
        return {worker: (pid, index) for worker, (pid, index) in enumerate(self._now.tolist()) if pid >= 0}

    def _note(self, index: int) -> None:
        """Leave word of what this worker does, in case that it cannot tell any more."""
        if (worker := get_worker_info()) is not None:
            self._now[worker.id % len(self._now)] = torch.tensor([os.getpid(), index])

    def _readable_scene(self, index: int) -> tuple[int, Scene]:
        """The scene of an image, or of the next one that can be read."""
        while True:
            try:
                return index, self.scene(index)
            except ValueError as error:
                if not self.reading.bad_images:
                    raise DataError(str(error)) from error
                self._bad[index] = True
                if int(self._bad.sum()) > self.reading.bad_images:
                    raise DataError(
                        f"{error}\n  more images than data.bad_images {self.reading.bad_images} cannot be read"
                    ) from error
                index = (index + 1) % len(self)

    def path(self, index: int) -> Path:
        """Where the image is; where no file has the name, the one in the folder that fits it (see :mod:`.names`).

        Raises:
            DataError: a file name that leads out of the image folder.
        """
        name, named = self.annotations.file_name(index), self.named_path(index)
        if named is not None and os.path.exists(named):
            return named
        found = find_file(self.image_root, name)[0]
        if found is not None:
            return found
        if named is None:
            hint = f"; {advice(self.image_root, name)}" if self.image_root.is_dir() else ""
            raise DataError(
                f"{self.annotations.path}: image {self.annotations.image_ids[index]} has file_name {name!a:.80}, which "
                f"leads out of the image folder; correct it, or set data.allow_outside_root{hint}"
            )
        return named

    def named_path(self, index: int) -> Path | None:
        """The path that the name alone gives, or None if it leads out of the image folder; no disk is asked."""
        name = self.annotations.file_name(index)
        return None if leads_out(name) and not self.reading.allow_outside_root else self.image_root / name


def begin_worker(number: int) -> None:
    """For a loader's ``worker_init_fn``: what images leave behind is used by the next ones.

    A batch's images are alive together. glibc gives their memory back, and the system clears it for the next batch:
    half of a worker's time at 16 images of 800 pixels.
    """
    keep_freed_pieces()
    tell_the_training()


class Together(Dataset[list[Sample]]):
    """A data set whose items are lists of samples, by lists of image numbers: for batches of unequal length."""

    def __init__(self, data: CocoDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, numbers: list[int]) -> list[Sample]:
        return self.data.__getitems__(numbers)
