"""Data for benchmarks."""

from pathlib import Path

import torch

from detection.coco.annotations import Annotations, load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.shapes import write_shapes
from detection.structures import IGNORE, Batch


def open_data(
    annotations: Path | None, images: Path | None, folder: Path, masks: bool = True
) -> tuple[Annotations, Path]:
    """Open the user's data in COCO format, or write synthetic shapes to ``folder`` and open them."""
    if annotations is None or images is None:
        write_shapes(folder, train=40, val=1)
        annotations, images = folder / "annotations" / "instances_train.json", folder / "train"
    return load_annotations(annotations, need_masks=masks), images


def batches(annotations: Annotations, images: Path, size: int, batch: int, number: int) -> list[Batch]:
    """Return batches of images with objects; ``size`` is their shorter side in pixels."""
    dataset = CocoDataset(annotations, images, [Resize(size, size * 1333 // 800)], masks=True)
    filled = [i for i in range(len(dataset)) if len(annotations.boxes(i))]
    chosen = [filled[i % len(filled)] for i in range(batch * number)]
    return [collate([dataset[i] for i in chosen[k : k + batch]]) for k in range(0, len(chosen), batch)]


def persons(batch: Batch, keypoints: int) -> Batch:
    """Return the batch with one class, and with visible keypoints at random places in the box of each object."""
    targets = batch.targets
    assert targets is not None
    places = torch.rand(*targets.labels.shape, keypoints, 2, generator=torch.Generator().manual_seed(0))
    low, high = targets.boxes[:, :, None, :2], targets.boxes[:, :, None, 2:]
    seen = ((targets.labels != IGNORE) & ~targets.crowd)[..., None, None].expand(-1, -1, keypoints, 1)
    points = torch.cat([low + (high - low) * places, 2 * seen], dim=-1) * seen
    return batch._replace(targets=targets._replace(labels=targets.labels.clamp(max=0), keypoints=points))
