"""Batches to time with, and the two ways to load an image with its masks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from detection.data.annotations import Annotations, load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import HorizontalFlip, Resize
from detection.shapes import write_shapes
from detection.structures import Batch


def open_data(
    annotations: Path | None, images: Path | None, folder: Path, masks: bool = True
) -> tuple[Annotations, Path]:
    """The user's COCO-format data, or drawn shapes where there are none."""
    if annotations is None or images is None:
        write_shapes(folder, train=40, val=1)
        annotations, images = folder / "annotations" / "instances_train.json", folder / "train"
    return load_annotations(annotations, need_masks=masks), images


def batches(annotations: Annotations, images: Path, size: int, batch: int, number: int) -> list[Batch]:
    """Batches of images with objects, shortest side ``size``."""
    dataset = CocoDataset(annotations, images, [Resize(size, size * 1333 // 800)], masks=True)
    filled = [i for i in range(len(dataset)) if len(annotations.boxes(i))]
    chosen = [filled[i % len(filled)] for i in range(batch * number)]
    return [collate([dataset[i] for i in chosen[k : k + batch]]) for k in range(0, len(chosen), batch)]


def loaders(annotations: Annotations, images: Path) -> dict[str, Callable[[], None]]:
    """Functions that load all images once, augmented as for COCO's 3x schedule, in this thread."""
    sides = [640, 672, 704, 736, 768, 800]
    ours = CocoDataset(annotations, images, [HorizontalFlip(0.5), Resize(sides, 1333)], masks=True)
    raw = CocoDataset(annotations, images, [HorizontalFlip(0.5), Resize(sides, 1333, later=True)], masks=True)

    def load(data: CocoDataset) -> None:
        for i in range(len(data)):
            data[i]  # let go of at once, as a worker does

    def peer() -> None:
        generator = np.random.default_rng(0)
        for i in range(len(annotations)):
            _load_as_torchvision(annotations, images, i, int(generator.choice(sides)), generator.random() < 0.5)

    return {
        "ours": lambda: load(ours),
        "ours, resized on the device": lambda: load(raw),
        "torchvision's reference": peer,
    }


def _load_as_torchvision(annotations: Annotations, images: Path, index: int, side: int, flip: bool) -> object:
    """What torchvision's detection reference does for an image: Pillow, float tensors, full-frame masks, resized."""
    with Image.open(images / annotations.file_name(index)) as file:
        pixels = np.array(file.convert("RGB"))
    height, width = pixels.shape[:2]
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    frames = []
    for k in range(len(annotations.boxes(index))):
        segmentation = annotations.segmentation(index, k)
        if isinstance(segmentation, list):
            rle = coco_mask.merge(coco_mask.frPyObjects([p.reshape(-1).tolist() for p in segmentation], height, width))
        else:
            rle = segmentation
        frames.append(np.zeros((height, width), np.uint8) if rle is None else coco_mask.decode(rle))
    masks = torch.from_numpy(np.stack(frames)) if frames else torch.zeros(0, height, width, dtype=torch.uint8)
    if flip:
        image, masks = image.flip(-1), masks.flip(-1)
    factor = min(side / min(height, width), 1333 / max(height, width))
    image = F.interpolate(image[None], scale_factor=factor, mode="bilinear", recompute_scale_factor=True)[0]
    resized = F.interpolate(masks[:, None].float(), scale_factor=factor, recompute_scale_factor=True)[:, 0].byte()
    return image, resized
