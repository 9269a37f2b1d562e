"""Images with their objects, one at a time, in a worker.

The sample of an image depends on (seed, epoch, image) and on nothing else: not on the worker, the rank, the order, or
where training was resumed.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from detection.data.annotations import Annotations
from detection.data.image import read_image
from detection.data.transforms import HorizontalFlip, Resize, Scene, Transform
from detection.structures import Sample

__all__ = ["CocoDataset", "read_image"]


class CocoDataset(Dataset[Sample]):
    """Annotated images as :class:`~detection.structures.Sample`.

    Args:
        annotations: from :func:`~detection.data.annotations.load_annotations`.
        image_root: the folder that file names begin at.
        transforms: in this order.
        masks: make bitmaps for a mask head.
        seed: of the augmentation.
        allow_outside_root: follow file names that lead out of ``image_root``.
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
        allow_outside_root: bool = False,
        draft: bool = False,
    ) -> None:
        self.annotations, self.image_root = annotations, Path(image_root)
        self.transforms, self.masks, self.seed = list(transforms), masks, seed
        self.mask_size, self.allow_outside_root = mask_size, allow_outside_root
        # Other transforms may count in pixels of the file.
        simple = all(isinstance(transform, HorizontalFlip | Resize) for transform in transforms)
        sides = [max(transform.short_sides) for transform in transforms if isinstance(transform, Resize)]
        self._draft_side = min(sides) if draft and simple and sides else None

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The sample of an image.

        Args:
            key: the image's number, or (number, epoch).

        Raises:
            ValueError: the image cannot be read or has another size than its annotations say; with its path.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        scene = self.scene(index)
        generator = np.random.default_rng((self.seed, epoch, index))
        for transform in self.transforms:
            scene = transform(scene, generator)
        masks = None
        if self.masks:
            masks = np.zeros((len(scene.boxes), self.mask_size, self.mask_size), dtype=np.uint8)
            for k in range(len(masks)):
                masks[k] = scene.bitmap(k, self.mask_size)
        height, width = (int(side) for side in self.annotations.sizes[index])
        return Sample(
            image=scene.image,
            image_id=int(self.annotations.image_ids[index]),
            original_size=(height, width),
            boxes=scene.boxes.astype(np.float32),
            labels=scene.labels,
            crowd=scene.crowd,
            masks=masks,
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
        image = read_image(self.path(index), (height, width), reduce=reduce)
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

    def path(self, index: int) -> Path:
        """Where the image is.

        Raises:
            ValueError: a file name that leads out of the image folder.
        """
        name = self.annotations.file_name(index)
        if not self.allow_outside_root and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise ValueError(
                f"{self.annotations.path}: image {self.annotations.image_ids[index]} has file_name {name!r}, which "
                "leads out of the image folder; correct it, or allow_outside_root"
            )
        return self.image_root / name
