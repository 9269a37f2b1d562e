"""Images per second and core with large-scale jitter and copy-paste, beside torchvision's transforms.

    python -m tools.benchmark.strong ANNOTATIONS IMAGES

It counts CPU time of one process, so that other work on the machine changes little.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from detection.coco.annotations import Annotations, load_annotations
from detection.data.collate import collate
from detection.data.copy_paste import CopyPaste
from detection.data.dataset import CocoDataset, begin_worker
from detection.data.jitter import JitterConfig
from detection.engine.data_config import DataConfig

SIZE = 1024
BATCH = 16

Target = dict[str, torch.Tensor]


def ours(annotations: Annotations, images: Path, paste: bool) -> Callable[[int, int], None]:
    """Return a function that makes one batch, with masks of 112 x 112 in the frames of the boxes."""
    config = DataConfig(jitter=JitterConfig(size=(SIZE, SIZE)), copy_paste=CopyPaste() if paste else None)
    data = CocoDataset(annotations, images, config.transforms("train"), masks=True, draft=True)

    def batch(first: int, epoch: int) -> None:
        collate(data.__getitems__([((first + k) % len(data), epoch) for k in range(BATCH)]))

    return batch


def peer(annotations: Annotations, images: Path, paste: bool) -> Callable[[int, int], None]:
    """Return the same of torchvision: Pillow, full-frame masks, ScaleJitter, a crop with padding, copy-paste."""
    transforms = v2.Compose(
        [
            v2.ScaleJitter(target_size=(SIZE, SIZE), scale_range=(0.1, 2.0), antialias=True),
            v2.RandomCrop(SIZE, pad_if_needed=True),
            v2.RandomHorizontalFlip(0.5),
            v2.SanitizeBoundingBoxes(labels_getter=lambda sample: (sample[1]["labels"], sample[1]["masks"])),
        ]
    )

    def one(index: int) -> tuple[torch.Tensor, Target]:
        with Image.open(images / annotations.file_name(index)) as file:
            pixels = tv_tensors.Image(torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1).contiguous())
        height, width = pixels.shape[-2:]
        kept = [k for k, crowd in enumerate(annotations.crowd(index)) if not crowd]
        masks = np.stack([np.zeros((height, width), np.uint8), *(_full(annotations, index, k) for k in kept)])[1:]
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(annotations.boxes(index)[kept]), format="XYXY", canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(annotations.labels(index)[kept]),
            "masks": tv_tensors.Mask(torch.from_numpy(masks)),
        }
        found: tuple[torch.Tensor, Target] = transforms(pixels, target)
        return found

    def batch(first: int, epoch: int) -> None:
        torch.manual_seed(1000 * epoch + first)
        samples = [one((first + k) % len(annotations)) for k in range(BATCH)]
        if paste:
            samples = [_pasted(*sample, *samples[k - 1]) for k, sample in enumerate(samples)]
        torch.stack([image for image, _ in samples])

    return batch


def _full(annotations: Annotations, index: int, k: int) -> np.ndarray:
    """Return a full-frame mask."""
    height, width = (int(side) for side in annotations.sizes[index])
    segmentation = annotations.segmentation(index, k)
    if segmentation is None:
        return np.zeros((height, width), np.uint8)
    if isinstance(segmentation, list):
        polygons = [polygon.ravel().tolist() for polygon in segmentation]
        segmentation = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    decoded: np.ndarray = coco_mask.decode(segmentation)
    return decoded


def _pasted(image: torch.Tensor, target: Target, other: torch.Tensor, above: Target) -> tuple[torch.Tensor, Target]:
    """Return simple copy-paste of full-frame masks: some objects of the second image on the first."""
    count = len(above["masks"])
    if not count:
        return image, target
    some = torch.unique(torch.randint(count, (count,)))
    pasted = above["masks"][some].bool()
    covered = pasted.any(dim=0)
    below = target["masks"].bool() & ~covered
    masks = torch.cat([below, pasted])
    labels = torch.cat([target["labels"], above["labels"][some]])
    keep = masks.flatten(1).any(dim=1)
    masks, labels = masks[keep], labels[keep]
    return torch.where(covered, other, image), {"boxes": masks_to_boxes(masks), "labels": labels, "masks": masks}


def speed(batch: Callable[[int, int], None], images: int) -> float:
    """Return images per second of CPU time: the best of three epochs after one that warms up."""
    best = np.inf
    for epoch in range(4):
        start = time.process_time()
        for first in range(0, images, BATCH):
            batch(first, epoch)
        best = min(best, time.process_time() - start) if epoch else best
    return images / float(best)


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description="images/s per core with large-scale jitter and copy-paste")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    begin_worker(0)
    annotations = load_annotations(options.annotations, need_masks=True)
    for name, way, images in (("ours", ours, 96), ("torchvision", peer, 32)):
        for paste in (False, True):
            found = speed(way(annotations, options.images, paste), images)
            what = "jitter + copy-paste" if paste else "jitter"
            print(f"{name:12s} {what:20s} images/s per core: {found:.1f}")


if __name__ == "__main__":
    main()
