"""Run the detector once on images of any size, and return the detections in pixels of each image.

n detections  m mask side
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from detection.coco.keypoints import PIXEL_CENTRE
from detection.data.collate import canvas_of, collate
from detection.data.flipping import partners
from detection.data.sample import Sample
from detection.data.samplers import EvalBatchSampler
from detection.data.transforms import Resize
from detection.evaluation.maps import predicted_map
from detection.fast.pasting import encode_masks, rounded_frames
from detection.models.detector import Detector
from detection.models.mask_forms import has_pixel_corners, has_rounded_frames
from detection.models.panoptic import WithSemanticHead
from detection.ops import boxes as box_ops
from detection.ops.keypoints import rescale_keypoints
from detection.structures import Batch, Detections


@torch.inference_mode()
def detect(
    model: Detector, images: Sequence[np.ndarray], size: tuple[int, int] | None = None, flip: bool = False
) -> list[Detections]:
    """Run the model on images.

    Images share a batch only if each of them alone would be padded to the same size. So the batch does not change the
    result.

    Args:
        model: the detector. It runs in evaluation mode; the previous mode of each module is restored afterwards. If
            threads share a model, call ``model.eval()`` first: otherwise the first thread that ends restores the
            training mode while the others still run.
        images: (H, W, C) uint8 or uint16 arrays; RGB if C is 3.
        size: (shortest, longest) image side in pixels; None uses the model's ``test_size``.
        flip: run the horizontally flipped images, and flip the detections back.

    Returns:
        The detections of each image, best first, without padding, on the CPU:

        * boxes (n, 4) float64, in pixels of the image
        * scores (n,) float32
        * labels (n,) int64
        * masks (n, m, m) float32
        * keypoints (n, N, 3) float64, x, y in pixels of the image, and score
        * semantic (H, W) uint8, the semantic class of each pixel of the image

    Raises:
        ValueError: an image has no pixels, or an exported file, which resizes images itself, gets another size.
    """
    if model.resize == "inside" and size not in (None, model.test_size):
        raise ValueError(f"size: this exported file resizes images itself, to {model.test_size}; leave the size out")
    resize = Resize(*(size or model.test_size), model.resize)
    samples = []
    for image in images:
        if not image.size:
            raise ValueError(f"image: an array of shape {image.shape} has no pixels; give an image")
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


def _detect(model: Detector, batch: Batch, flipped: bool) -> Iterator[Detections]:
    """Yield the detections of each image of a batch."""
    device = model.pixel_mean.device
    found = model(batch.images.to(device), batch.sizes.to(device))
    maps = [None if found.semantic is None else predicted_map(batch, found, i) for i in range(len(batch.images))]
    detections = found._replace(semantic=None).cpu()  # one copy: each copy synchronises with the GPU
    boxes = box_ops.rescale(detections.boxes.double(), batch.sizes, batch.original_sizes)
    detections = detections._replace(boxes=boxes)
    if detections.keypoints is not None:
        points = rescale_keypoints(detections.keypoints.double(), batch.sizes, batch.original_sizes)
        points[..., :2] += PIXEL_CENTRE * has_pixel_corners(model)
        detections = detections._replace(keypoints=points)
    for i, (_, width) in enumerate(batch.original_sizes.tolist()):
        one = detections.image(i)
        boxes, masks = one.boxes, None if one.masks is None else one.masks.float()
        if flipped:
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
            masks = None if masks is None else masks.flip(2)
            one = one._replace(keypoints=_flipped(model, one, width))
        semantic = maps[i]
        if semantic is not None and flipped:
            semantic = semantic[:, ::-1]
        pixels = None if semantic is None else torch.from_numpy(np.ascontiguousarray(semantic))
        yield one._replace(boxes=boxes, scores=one.scores.float(), masks=masks, semantic=pixels)


def _flipped(model: Detector, found: Detections, width: int) -> Tensor | None:
    """Return the keypoints of a flipped image for the image itself; left and right ones change places."""
    if found.keypoints is None:
        return None
    points = found.keypoints.clone()
    points[..., 0] = width - points[..., 0]
    if model.categories is None or not model.categories.keypoints:
        return points
    order = torch.from_numpy(partners(model.categories))[found.labels]  # (n, N)
    return points.gather(1, order[..., None].expand_as(points))


def take(found: Detections, index: Tensor) -> Detections:
    """Return some detections of one image, selected by indices, (k,) int64, or by a condition, (n,) bool."""
    return Detections(*(None if value is None else value[index] for value in found))  # type: ignore[arg-type]


def concatenate(parts: Sequence[Detections]) -> Detections:
    """Concatenate the detections of several views of one image."""
    fields = [[value for value in values if value is not None] for values in zip(*parts, strict=True)]
    return Detections(*(torch.cat(values) if values else None for values in fields))  # type: ignore[arg-type]


def check_one_view(model: Detector) -> None:
    """Raise a ValueError for a detector with a semantic head, whose maps several views cannot share."""
    if isinstance(model, WithSemanticHead):
        raise ValueError("test-time augmentation does not work with a semantic head; leave these options out")


def encoded(model: Detector, found: Detections, height: int, width: int) -> list[dict[str, object]] | None:
    """Return the masks of one image of size height x width as COCO RLE; None without a mask head."""
    if found.masks is None:
        return None
    frames = rounded_frames(found.boxes, found.masks.shape[-1]) if has_rounded_frames(model) else found.boxes
    return encode_masks(found.masks, frames, height, width)


def in_file(model: Detector, found: Detections) -> list[list[float]]:
    """Return the keypoints of each detection as in a COCO result, which counts pixels from 0; empty without any."""
    if found.keypoints is None:
        return []
    known = model.categories is not None and model.categories.keypoints
    points = found.keypoints - found.keypoints.new_tensor([PIXEL_CENTRE, PIXEL_CENTRE, 0])
    counts = [len(one.names) for one in model.categories.skeletons] if known else []  # type: ignore[union-attr]
    labels = found.labels.tolist()
    return [p[: counts[k] if counts else len(p)].flatten().tolist() for p, k in zip(points, labels, strict=True)]
