"""Score keypoints by their object keypoint similarity (OKS), which takes the place of the IoU.

n detections   N keypoints of the class with the most.
OKS is the mean of exp(-d^2 / (2 s^2 (2 sigma)^2)) over the labelled keypoints of an object. d is the distance, s^2 the
area of the object, sigma the spread of an annotator's clicks. https://cocodataset.org/#keypoints-eval
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
"""COCO's measured spreads: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles."""
SIGMA = 0.05
"""Spread of a keypoint that nobody measured; COCO's are between 0.025 and 0.107."""


def sigmas_of(keypoints: int, given: Sequence[float] | None = None) -> list[float]:
    """Return the sigma of each keypoint: the given ones; or COCO's for 17 keypoints, else :data:`SIGMA`.

    Raises:
        ValueError: the number of sigmas is not that of the keypoints, or one of them is not above 0.
    """
    if given is None:
        return list(COCO_SIGMAS) if keypoints == len(COCO_SIGMAS) else [SIGMA] * keypoints
    if len(given) != keypoints or not all(math.isfinite(one) and one > 0 for one in given):
        raise ValueError(f"keypoint_sigmas {list(given)[:20]}: give a number above 0 for each of {keypoints} keypoints")
    return list(given)


def of_class(points: np.ndarray, count: int) -> np.ndarray:
    """Return keypoints (n, N, 3) of which those that the class lacks lie on the first one.

    The engines take the box around all keypoints of a detection as its size.
    """
    found = points.copy()
    found[:, count:, :2] = points[:, :1, :2]
    return found


def from_result(result: Any, count: int, most: int, index: int) -> list[list[float]]:
    """Return the keypoints of a result as N lists of x, y, score.

    Args:
        result: ``keypoints`` of a COCO result.
        count: number of keypoints of its class.
        most: N.
        index: number of the result, for the message.

    Raises:
        ValueError: the result has another number of keypoints.
    """
    if len(result) not in (3 * count, 3 * most):
        raise ValueError(f"result {index}: keypoints are {len(result)} numbers, but must be {3 * count}: x, y, score")
    points = [[*result[k : k + 3]] for k in range(0, 3 * count, 3)]
    return points + [[*points[0][:2], 0.0] if points else [0.0, 0.0, 0.0]] * (most - count)
