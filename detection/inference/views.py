"""Test-time augmentation: run the detector on resized and flipped versions of an image, and merge the detections."""

from collections.abc import Sequence

import numpy as np
import torch

from detection.inference.detect import check_one_view, concatenate, detect, take
from detection.models.detector import Detector
from detection.ops.nms import nms
from detection.structures import Detections


def detect_in_views(
    model: Detector,
    images: Sequence[np.ndarray],
    short_sides: Sequence[int] = (),
    flip: bool = False,
    size: tuple[int, int] | None = None,
) -> list[Detections]:
    """Run the model on several views of each image, and keep the best detections.

    A view is the image at another size, or flipped horizontally. The model's NMS merges the detections of all views.
    The time is the sum over the views.

    Args:
        model: the detector.
        images: (H, W, C) uint8 or uint16 arrays.
        short_sides: lengths of the shortest side in pixels, one per view. The limit of the longest side changes in
            proportion. If empty, there is one view at ``size``.
        flip: also run the horizontally flipped image at each size.
        size: (shortest, longest) image side in pixels; None uses the model's ``test_size``.

    Returns:
        The detections of each image, as :func:`~detection.inference.detect.detect` returns them.
    """
    if short_sides or flip:
        check_one_view(model)
    short, long = size or model.test_size
    sizes = [(side, round(long * side / short)) for side in short_sides] or [(short, long)]
    views = [
        detect(model, images, size, flipped) for size in sizes for flipped in ((False, True) if flip else (False,))
    ]
    if len(views) == 1:
        return views[0]
    config = model.last_head.config
    return [
        merge_views(seen, config.nms_threshold, config.detections, config.nms_across_classes)
        for seen in zip(*views, strict=True)
    ]


def merge_views(views: Sequence[Detections], threshold: float, most: int, across_classes: bool = False) -> Detections:
    """Merge the detections of several views of one image by NMS, per class or across classes."""
    together = concatenate(views)
    order = together.scores.argsort(descending=True, stable=True)
    together = take(together, order)
    keep = torch.zeros(len(order), dtype=torch.bool)
    lists = torch.zeros_like(together.labels) if across_classes else together.labels
    for one in lists.unique():
        rows = (lists == one).nonzero().squeeze(1)
        keep[rows] = nms(together.boxes[None, rows], together.scores[None, rows].double(), threshold)[0]
    return take(together, keep.nonzero().squeeze(1)[:most])
