"""Data for benchmarks."""

from pathlib import Path

from detection.coco.annotations import Annotations, load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.shapes import write_shapes
from detection.structures import Batch


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
