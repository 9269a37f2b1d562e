"""Several looks at one image, at other sizes and mirrored, with the detections merged."""

from collections.abc import Sequence

import numpy as np
import torch

from detection.inference.detect import concatenate, detect, take
from detection.models.rcnn import FasterRCNN
from detection.ops.nms import nms
from detection.structures import Detections


def detect_in_views(
    model: FasterRCNN,
    images: Sequence[np.ndarray],
    short_sides: Sequence[int] = (),
    flip: bool = False,
    size: tuple[int, int] | None = None,
) -> list[Detections]:
    """Look at each image at several sizes, and mirrored too, and keep the best detections.

    The detections of all views pass the model's own suppression once more. The time is the sum over the views.

    Args:
        short_sides: sizes to look at; the longest side grows with the shortest. One look at ``size`` if empty.
        flip: look at the mirrored image at each size, too.
        size: shortest and longest side to resize to; the model's own ``test_size`` if None.

    Returns:
        The detections of each image, as :func:`~detection.inference.detect.detect` returns them.
    """
    short, long = size or model.test_size
    sizes = [(side, round(long * side / short)) for side in short_sides] or [(short, long)]
    views = [
        detect(model, images, size, mirrored) for size in sizes for mirrored in ((False, True) if flip else (False,))
    ]
    if len(views) == 1:
        return views[0]
    config = model.box_head.config
    return [
        merge_views(seen, config.nms_threshold, config.detections, config.nms_across_classes)
        for seen in zip(*views, strict=True)
    ]


def merge_views(views: Sequence[Detections], threshold: float, most: int, across_classes: bool = False) -> Detections:
    """Merge the detections of several views of one image: non-maximum suppression per class, or across classes."""
    together = concatenate(views)
    order = together.scores.argsort(descending=True, stable=True)
    together = take(together, order)
    keep = torch.zeros(len(order), dtype=torch.bool)
    lists = torch.zeros_like(together.labels) if across_classes else together.labels
    for one in lists.unique():
        rows = (lists == one).nonzero().squeeze(1)
        keep[rows] = nms(together.boxes[None, rows], together.scores[None, rows].double(), threshold)[0]
    return take(together, keep.nonzero().squeeze(1)[:most])
