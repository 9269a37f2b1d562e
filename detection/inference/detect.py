"""One run of the detector over images of any size, with the detections in pixels of each image.

n detections  m mask side
"""

from collections.abc import Iterator, Sequence

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
from detection.structures import Batch, Detections


@torch.inference_mode()
def detect(
    model: FasterRCNN, images: Sequence[np.ndarray], size: tuple[int, int] | None = None, flip: bool = False
) -> list[Detections]:
    """Run the model over images.

    Images share a batch only if each of them alone would have the same canvas, so that no batch changes a number.

    Args:
        model: used in evaluation mode; each of its modules is left in the mode it was in. Threads that share a model
            must put it in evaluation mode first: otherwise the first to end puts the others in training mode.
        images: (H, W, 3) uint8 RGB each.
        size: shortest and longest side to resize to; the model's own ``test_size`` if None.
        flip: look at the mirrored images; the detections are mirrored back.

    Returns:
        The detections of each image, best first, without padding, on the CPU: boxes (n, 4) float64 in pixels of the
        image, scores (n,) float32, labels (n,) int64, masks (n, m, m) float32.

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
    found: dict[int, Detections] = {}
    try:
        model.eval()
        for numbers in EvalBatchSampler(canvases, len(samples)):
            batch = collate([samples[number] for number in numbers], divisor=model.stride)
            found |= zip(numbers, _detect(model, batch, flip), strict=True)
    finally:
        for module in learning:
            module.training = True
    return [found[number] for number in range(len(images))]


def _detect(model: FasterRCNN, batch: Batch, mirrored: bool) -> Iterator[Detections]:
    """Yield the detections of each image of a batch."""
    device = model.pixel_mean.device
    detections = model(batch.images.to(device), batch.sizes.to(device)).cpu()  # one copy for all: each copy is a wait
    boxes = box_ops.rescale(detections.boxes.double(), batch.sizes, batch.original_sizes)
    detections = detections._replace(boxes=boxes)
    for i, (_, width) in enumerate(batch.original_sizes.tolist()):
        one = detections.image(i)
        boxes, masks = one.boxes, None if one.masks is None else one.masks.float()
        if mirrored:
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
            masks = None if masks is None else masks.flip(2)
        yield one._replace(boxes=boxes, scores=one.scores.float(), masks=masks)


def take(found: Detections, index: Tensor) -> Detections:
    """Return some detections of one image: by their places, (k,) int64, or by a condition, (n,) bool."""
    return Detections(*(None if value is None else value[index] for value in found))  # type: ignore[arg-type]


def concatenate(parts: Sequence[Detections]) -> Detections:
    """Join the detections of several views of one image, in their order."""
    fields = [[value for value in values if value is not None] for values in zip(*parts, strict=True)]
    return Detections(*(torch.cat(values) if values else None for values in fields))  # type: ignore[arg-type]


def encoded(model: FasterRCNN, found: Detections, height: int, width: int) -> list[dict[str, object]] | None:
    """Return the masks of one image of this size as COCO RLE; None without a mask head."""
    if found.masks is None:
        return None
    rounded = isinstance(model, MaskRCNN) and model.mask_head.config.rounded_frames
    frames = rounded_frames(found.boxes, found.masks.shape[-1]) if rounded else found.boxes
    return encode_masks(found.masks, frames, height, width)
