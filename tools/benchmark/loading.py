"""Several ways to load images with masks, with the augmentation of COCO's 3x schedule."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from detection.coco.annotations import Annotations
from detection.data.collate import collate, collate_unresized, few_canvases_for
from detection.data.dataset import CocoDataset, begin_worker
from detection.data.transforms import HorizontalFlip, Resize, Transform

OURS, LATER, PEER = WAYS = ("ours", "ours, resized on the device", "torchvision's reference")
BATCH = 16
SIDES = (640, 672, 704, 736, 768, 800)


class Loading:
    """One of :data:`WAYS` to load data; make it in a new process.

    Args:
        annotations, images: the data.
        way: one of :data:`WAYS`.
        worker: load batches through a data loader with one worker; otherwise load samples in this process.
    """

    def __init__(self, annotations: Annotations, images: Path, way: str, worker: bool) -> None:
        torch.set_num_threads(1)
        # Aspect-ratio grouping, as in training.
        order = np.argsort(annotations.sizes[:, 0] / annotations.sizes[:, 1], kind="stable").tolist()
        self.batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        self.data: CocoDataset | Reference
        options: dict[str, Any]
        if way == PEER:
            self.data, options = Reference(annotations, images), {"collate_fn": _together}
        else:
            later = way == LATER
            transforms: list[Transform] = [HorizontalFlip(0.5, later), Resize(SIDES, 1333, later=later)]
            self.data = CocoDataset(annotations, images, transforms, masks=True)
            together = partial(collate_unresized if later else collate, canvases=few_canvases_for(800, 1333))
            options = {"collate_fn": together, "worker_init_fn": begin_worker}
            if not worker:
                begin_worker(0)
        self.loader: DataLoader[Any] | None = None
        if worker:
            self.loader = DataLoader(
                self.data, batch_sampler=self.batches, num_workers=1, persistent_workers=True, **options
            )

    def load(self) -> None:
        """Load all images once; each batch is freed before the next."""
        if self.loader is None:
            for numbers in self.batches:
                self.data.__getitems__(numbers)
        else:
            for _ in self.loader:
                pass


class Reference(Dataset[Any]):
    """The data set of torchvision's detection reference: Pillow, float tensors, full-image masks, no crowds."""

    def __init__(self, annotations: Annotations, images: Path) -> None:
        self.annotations, self.images = annotations, images

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng(index)
        side, flip = int(generator.choice(SIDES)), generator.random() < 0.5
        with Image.open(self.images / self.annotations.file_name(index)) as file:
            pixels = np.array(file.convert("RGB"))
        height, width = pixels.shape[:2]
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        frames = [self._mask(index, int(k), height, width) for k in np.flatnonzero(~self.annotations.crowd(index))]
        masks = torch.from_numpy(np.stack(frames)) if frames else torch.zeros(0, height, width, dtype=torch.uint8)
        if flip:
            image, masks = image.flip(-1), masks.flip(-1)
        factor = min(side / min(height, width), 1333 / max(height, width))
        image = F.interpolate(image[None], scale_factor=factor, mode="bilinear", recompute_scale_factor=True)[0]
        resized = F.interpolate(masks[:, None].float(), scale_factor=factor, recompute_scale_factor=True)[:, 0].byte()
        return image, resized

    def __getitems__(self, numbers: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [self[number] for number in numbers]

    def _mask(self, index: int, k: int, height: int, width: int) -> np.ndarray:
        segmentation = self.annotations.segmentation(index, k)
        if segmentation is None:
            return np.zeros((height, width), np.uint8)
        if isinstance(segmentation, list):
            polygons = [polygon.reshape(-1).tolist() for polygon in segmentation]
            segmentation = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        mask: np.ndarray = coco_mask.decode(segmentation)
        return mask


def _together(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Any, ...]:
    """Collate samples into lists, as torchvision's reference does."""
    return tuple(zip(*samples, strict=True))
