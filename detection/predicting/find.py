"""Detections of images of any size, in their own pixels; and of several views of them, put together.

n detections  m mask side.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.data.collate import canvas_of, collate
from detection.data.sample import Sample
from detection.data.samplers import EvalBatchSampler
from detection.data.transforms import Resize
from detection.fast.pasting import encode_masks, rounded_frames
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.ops import boxes as box_ops
from detection.ops.nms import nms
from detection.structures import Batch


class Found(NamedTuple):
    """What was found in one image, best first; on the CPU."""

    boxes: Tensor
    """(n, 4) float64 XYXY in pixels of the image."""
    scores: Tensor
    """(n,) float32."""
    labels: Tensor
    """(n,) int64."""
    masks: Tensor | None
    """(n, m, m) float32 probabilities in the frames of the boxes."""

    def take(self, index: Tensor) -> "Found":
        """Some of them: (k,) int64, or (n,) bool."""
        return Found(*(None if value is None else value[index] for value in self))  # type: ignore[arg-type]


@torch.inference_mode()
def find(
    model: FasterRCNN, images: Sequence[np.ndarray], size: tuple[int, int] | None = None, flip: bool = False
) -> list[Found]:
    """Run the model over images, those together that each alone would have the same canvas.

    Args:
        model: used in evaluation mode; each of its modules is left in the mode it was in. Threads that share a model
            put it in evaluation mode first: the first to end would else put the others in training mode.
        images: (H, W, 3) uint8 RGB each.
        size: shortest and longest side to resize to; the model's own ``test_size`` if None.
        flip: look at the images in a mirror; the detections are turned back.

    Raises:
        ValueError: an image without pixels.
    """
    resize = Resize(*(size or model.test_size), model.resize)
    samples = []
    for image in images:
        if not image.size:
            raise ValueError(f"image: an array of shape {image.shape} has no pixels")
        seen = np.ascontiguousarray(image[:, ::-1]) if flip else image
        samples.append(Sample(resize.image(seen), 0, (image.shape[0], image.shape[1])))
    canvases = np.array([canvas_of([sample.image.shape[:2]], model.stride) for sample in samples])
    learning = [module for module in model.modules() if module.training]
    found: dict[int, Found] = {}
    try:
        model.eval()
        for numbers in EvalBatchSampler(canvases, len(samples)):
            batch = collate([samples[number] for number in numbers], divisor=model.stride)
            found |= zip(numbers, _find(model, batch, flip), strict=True)
    finally:
        for module in learning:
            module.training = True
    return [found[number] for number in range(len(images))]


def _find(model: FasterRCNN, batch: Batch, mirrored: bool) -> Iterator[Found]:
    device = model.pixel_mean.device
    detections = model(batch.images.to(device), batch.sizes.to(device)).cpu()  # at once: each copy is a wait
    boxes = box_ops.rescale(detections.boxes.double(), batch.sizes, batch.original_sizes)
    detections = detections._replace(boxes=boxes)
    for i, (_, width) in enumerate(batch.original_sizes.tolist()):
        one = detections.image(i)
        boxes, masks = one.boxes, None if one.masks is None else one.masks.float()
        if mirrored:
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
            masks = None if masks is None else masks.flip(2)
        yield Found(boxes, one.scores.float(), one.labels, masks)


def find_in_views(
    model: FasterRCNN,
    images: Sequence[np.ndarray],
    short_sides: Sequence[int] = (),
    flip: bool = False,
    size: tuple[int, int] | None = None,
) -> list[Found]:
    """Look at each image at several sizes, and in a mirror too, and keep the best of what was found.

    Detections of all views are put together and pass the model's own suppression once more. It costs as much as the
    views together.

    Args:
        short_sides: sizes to look at; the longest side grows with the shortest. One look at ``size`` if empty.
        size: shortest and longest side to resize to; the model's own ``test_size`` if None.
    """
    short, long = size or model.test_size
    sizes = [(side, round(long * side / short)) for side in short_sides] or [(short, long)]
    views = [
        find(model, images, size, mirrored) for size in sizes for mirrored in ((False, True) if flip else (False,))
    ]
    if len(views) == 1:
        return views[0]
    config = model.box_head.config
    return [
        merge(seen, config.nms_threshold, config.detections, config.nms_across_classes)
        for seen in zip(*views, strict=True)
    ]


def merge(views: Sequence[Found], threshold: float, most: int, across_classes: bool = False) -> Found:
    """Several detections of one image as one: non-maximum suppression within each class, or across classes."""
    together = concatenate(views)
    order = together.scores.argsort(descending=True, stable=True)
    together = together.take(order)
    keep = torch.zeros(len(order), dtype=torch.bool)
    lists = torch.zeros_like(together.labels) if across_classes else together.labels
    for one in lists.unique():
        rows = (lists == one).nonzero().squeeze(1)
        keep[rows] = nms(together.boxes[None, rows], together.scores[None, rows].double(), threshold)[0]
    return together.take(keep.nonzero().squeeze(1)[:most])


def concatenate(parts: Sequence[Found]) -> Found:
    """One after the other."""
    masks = [part.masks for part in parts if part.masks is not None]
    return Found(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat(masks) if masks else None,
    )


def encoded(model: FasterRCNN, found: Found, height: int, width: int) -> list[dict[str, object]] | None:
    """Masks as COCO RLE of the image; None without a mask head."""
    if found.masks is None:
        return None
    rounded = isinstance(model, MaskRCNN) and model.mask_head.config.rounded_frames
    frames = rounded_frames(found.boxes, found.masks.shape[-1]) if rounded else found.boxes
    return encode_masks(found.masks, frames, height, width)
