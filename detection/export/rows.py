"""Detections of an image that two detectors find, row by row: which belong together, and how they differ.

n, m detections; p pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from detection.structures import Detections

FAR = 1.0
"""Detections of one class that are farther apart, in pixels, are two detections."""


LARGEST = 1e9
"""Difference of NaN or Inf, which JSON does not have."""


class Pairs(NamedTuple):
    """Pairs of detections, and the differences of each pair."""

    ours: Tensor
    """(p,) index."""
    theirs: Tensor
    """(p,) index."""
    boxes: Tensor
    """(p,) largest difference of a coordinate, in pixels of the image."""
    scores: Tensor
    """(p,) largest difference of the score, or of that of a keypoint."""
    masks: Tensor
    """(p,) largest difference of a probability; zero without masks."""
    keypoints: Tensor
    """(p,) largest difference of a coordinate of a keypoint, in pixels of the image; zero without keypoints."""


def pair(ours: Detections, theirs: Detections) -> Pairs:
    """Pair the detections of an image, and compare each pair; NaN counts as :data:`LARGEST`."""
    mine, other = partners(ours, theirs)
    boxes = (ours.boxes[mine] - theirs.boxes[other]).abs().flatten(1).amax(dim=1)
    scores = (ours.scores[mine] - theirs.scores[other]).abs()
    masks = torch.zeros(len(mine))
    if ours.masks is not None and theirs.masks is not None and len(mine):
        masks = (ours.masks[mine] - theirs.masks[other]).abs().flatten(1).amax(dim=1)
    keypoints = torch.zeros(len(mine))
    if ours.keypoints is not None and theirs.keypoints is not None and len(mine):
        off = (ours.keypoints[mine] - theirs.keypoints[other]).abs()
        keypoints, scores = off[..., :2].flatten(1).amax(dim=1), scores.maximum(off[..., 2].amax(dim=1))
    return Pairs(mine, other, *(x.double().nan_to_num(LARGEST, LARGEST) for x in (boxes, scores, masks, keypoints)))


def partners(ours: Detections, theirs: Detections) -> tuple[Tensor, Tensor]:
    """Pair each detection with the nearest one of its class, the best scores first.

    Returns:
        Two index tensors of the same length, into ``ours`` and ``theirs``.
    """
    if not len(ours.labels) or not len(theirs.labels):
        none = torch.zeros(0, dtype=torch.int64)
        return none, none
    distance = (ours.boxes[:, None] - theirs.boxes[None]).abs().amax(dim=2)  # (n, m)
    distance = distance.masked_fill(ours.labels[:, None] != theirs.labels, torch.inf)
    pairs = []
    for i, row in enumerate(distance):  # a view: a column that is taken becomes infinite for all
        best = int(row.argmin())
        if row[best] <= FAR:
            pairs.append((i, best))
            distance[:, best] = torch.inf
    index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return index[:, 0], index[:, 1]


def without(count: int, index: Tensor) -> Tensor:
    """Return which of ``count`` rows are not in an index, (count,) bool."""
    rest = torch.ones(count, dtype=torch.bool)
    rest[index] = False
    return rest
