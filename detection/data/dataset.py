"""Load one image at a time with its objects, in a data-loader worker.

A sample depends only on (seed, epoch, image). It does not depend on the worker, the rank, the order of the images, or
the place where training resumed.
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
from detection.data.handover import send_queue_errors
from detection.data.image import read_image
from detection.data.maps import Maps
from detection.data.mixing import Mix
from detection.data.names import advice, find_file, leads_out
from detection.data.pipeline import Late, Pipeline, Step
from detection.data.reading import Reading
from detection.data.sample import Sample
from detection.data.scene import Scene, draw_masks
from detection.data.together import Together
from detection.data.unreadable import Unreadable
from detection.home import with_home
from detection.memory import keep_freed_pieces

__all__ = ["CocoDataset", "Together", "begin_worker", "read_image"]


class CocoDataset(Dataset[Sample]):
    """Annotated images as :class:`~detection.structures.Sample`.

    Args:
        annotations: from :func:`~detection.coco.annotations.load_annotations`.
        image_root: image folder; the annotations' file names are relative to it.
        transforms: applied in this order.
        masks: create mask bitmaps for a mask head.
        seed: seed of the random augmentation.
        mask_size: side of the mask bitmaps in pixels.
        reading: limits, and how many images may be unreadable.
        draft: decode large JPEGs at 1/2, 1/4 or 1/8 of their size if they become smaller anyway. This is faster, but
            the pixels differ slightly from those of a full decode.
        late: the transforms of the last epochs, if they differ.
        partners: load keypoints for a keypoint head; from :func:`~detection.data.flipping.partners`.
        maps: load semantic maps for a semantic head.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_root: str | Path,
        transforms: Sequence[Step] = (),
        masks: bool = False,
        seed: int = 0,
        mask_size: int = 112,
        reading: Reading = Reading(),
        draft: bool = False,
        late: Late | None = None,
        partners: np.ndarray | None = None,
        maps: Maps | None = None,
    ) -> None:
        self.annotations, self.image_root = annotations, Path(with_home(image_root))
        self.transforms, self.masks, self.seed = list(transforms), masks, seed
        self.mask_size, self.reading, self.partners, self.maps = mask_size, reading, partners, maps
        self._unreadable = Unreadable(len(annotations), reading.bad_images)
        self._now = torch.full((64, 2), -1).share_memory_()
        drafts = draft and (reading.channels, reading.depth) == (3, 8)
        self.pipeline = Pipeline(self.transforms, late, drafts)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Return the sample of an image.

        Args:
            key: index of the image, or (index, epoch).

        Raises:
            DataError: the image cannot be read or does not have the annotated size, and the limit ``bad_images`` is
                reached; or a transform fails on it. The message contains the path.
        """
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Sample]:
        """Return several samples, and draw their masks together. PyTorch's loaders call this once per batch.

        Raises:
            DataError: as for one sample.
        """
        found = [self._augmented(*key) if isinstance(key, tuple) else self._augmented(key, 0) for key in keys]
        masks: Sequence[np.ndarray | None] = [None] * len(found)
        if self.masks:
            with self._named(*(index for index, _ in found)):
                masks = draw_masks([scene for _, scene in found], self.mask_size)
        self._note(-1)
        return [self._sample(index, scene, drawn) for (index, scene), drawn in zip(found, masks, strict=True)]

    def _augmented(self, index: int, epoch: int) -> tuple[int, Scene]:
        """Return the index and the transformed scene of an image, or of its replacement if it is unreadable."""
        self._note(index)
        return self._transformed(index, epoch, np.random.default_rng((self.seed, epoch, index)))

    def _transformed(
        self, index: int, epoch: int, generator: np.random.Generator, before: int | None = None
    ) -> tuple[int, Scene]:
        """Return the index and the transformed scene of an image, or of its replacement if it is unreadable.

        Args:
            before: apply the transforms before this one alone, and none of them that takes further images: a sample
                needs few.
        """
        steps = self.pipeline.decided(epoch, generator, before)
        index, scene = self._readable_scene(index, steps)
        for place, step in enumerate(steps):
            with self._named(index):
                if not isinstance(step, Mix):
                    scene = step(scene, generator)
                    continue

                def partner(place: int = place) -> Scene:
                    return self._transformed(int(generator.integers(len(self))), epoch, generator, place)[1]

                scene = step.mix(scene, generator, partner)
        return index, scene

    @contextmanager
    def _named(self, *indices: int) -> Iterator[None]:
        """Add the paths of these images to any error raised inside the block."""
        try:
            yield
        except DataError:  # of a partner, which has its own name in it
            raise
        except Exception as error:
            raise DataError(
                f"{', '.join(str(self.path(i)) for i in indices)}: augmentation failed with {type(error).__name__}: "
                f"{error}; correct data.augment, or add --debug to see the traceback"
            ) from error

    def _sample(self, index: int, scene: Scene, masks: np.ndarray | None) -> Sample:
        height, width = (int(side) for side in self.annotations.sizes[index])
        points = scene.points()
        return Sample(
            image=scene.image,
            image_id=int(self.annotations.image_ids[index]),
            original_size=(height, width),
            boxes=scene.boxes.astype(np.float32),
            labels=scene.labels,
            crowd=scene.crowd,
            masks=masks,
            keypoints=None if points is None else points.astype(np.float32),
            semantic=scene.semantic_map(),
            wanted=scene.wanted,
            mirrored=scene.mirrored,
        )

    def scene(self, index: int, steps: Sequence[Step] | None = None) -> Scene:
        """Return the image and its objects before any transform; a draft JPEG comes at reduced size.

        Args:
            steps: the transforms that follow; by default those of the data set.
        """
        height, width = (int(side) for side in self.annotations.sizes[index])
        # OpenCV's own threads would compete with the other workers for the same cores.
        cv2.setNumThreads(0)
        boxes = self.annotations.boxes(index)
        reduce = self.pipeline.reduction(self.transforms if steps is None else steps, height, width)
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
            keypoints=None if self.partners is None else self.annotations.keypoints(index),
            partners=self.partners,
            semantic=None if self.maps is None else self.maps.read(index),
        )
        if image.shape[:2] == (height, width):
            return scene
        return scene.moved(image, (image.shape[1] / width, image.shape[0] / height), (0, 0))

    def bad_images(self) -> list[int]:
        """Return the indices of the images that no worker could read so far."""
        return self._unreadable.indices()

    def reading_now(self) -> dict[int, tuple[int, int]]:
        """Return, for each worker number, its process ID and the index of its current image (-1 if none)."""
        return {worker: (pid, index) for worker, (pid, index) in enumerate(self._now.tolist()) if pid >= 0}

    def _note(self, index: int) -> None:
        """Record this worker's current image in shared memory, so that a crash report can name it."""
        if (worker := get_worker_info()) is not None:
            self._now[worker.id % len(self._now)] = torch.tensor([os.getpid(), index])

    def _readable_scene(self, index: int, steps: Sequence[Step]) -> tuple[int, Scene]:
        """Return the index and the scene of an image, or of the next readable image."""
        while True:
            try:
                return index, self.scene(index, steps)
            except ValueError as error:
                index = self._unreadable.replacement(index, error)

    def path(self, index: int) -> Path:
        """Return the path of an image. If no file has exactly this name, search for a match (see :mod:`.names`).

        Raises:
            DataError: the file name points outside the image folder.
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
                f"points outside the image folder; correct it, or set data.allow_outside_root: true{hint}"
            )
        return named

    def named_path(self, index: int) -> Path | None:
        """Return image folder + file name without any disk access; None if that is outside the image folder."""
        name = self.annotations.file_name(index)
        return None if leads_out(name) and not self.reading.allow_outside_root else self.image_root / name


def begin_worker(number: int) -> None:
    """Prepare a data-loader worker; pass it as ``worker_init_fn``.

    Freed memory stays in the process, and the next batch reuses it. By default, glibc returns the memory of a batch to
    the system, which clears it before the next use. For 16 images of 800 pixels that took half of a worker's time.
    """
    keep_freed_pieces()
    send_queue_errors()
