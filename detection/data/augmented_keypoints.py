"""Keypoints of a scene in the form of the albumentations library.

k objects   P keypoints.  Albumentations counts pixels from 0; here the centre of the first pixel is at 0.5.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from detection.coco.keypoints import PIXEL_CENTRE
from detection.data.scene import Scene


def to_keypoints(scene: Scene) -> dict[str, np.ndarray]:
    """Return ``keypoints`` for albumentations, (k * P + 3, 2): those of the objects, and three corners of the image.

    The corners show whether a transform flips the image. The dict is empty for a detector without keypoints.
    """
    points = scene.points()
    if points is None:
        return {}
    height, width = scene.image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height]], dtype=np.float64)
    return {"keypoints": np.concatenate([points[..., :2].reshape(-1, 2), corners]) - PIXEL_CENTRE}


def from_keypoints(scene: Scene, moved: Any, size: Sequence[int]) -> np.ndarray:
    """Return the transformed keypoints, (k, P, 3); those outside the image are not labelled.

    In a flipped image, left and right have changed places.

    Args:
        scene: the objects before the transform.
        moved: ``keypoints`` after it, as from :func:`to_keypoints`.
        size: (height, width) of the image after it.
    """
    before = scene.points()
    assert before is not None
    assert scene.partners is not None
    places = np.asarray(moved, dtype=np.float64)[:, :2] + PIXEL_CENTRE
    found = np.concatenate([places[:-3].reshape(*before.shape[:2], 2), before[..., 2:]], axis=2)
    outside = ((found[..., :2] < 0) | (found[..., :2] > size[::-1])).any(axis=2)
    found[outside | (found[..., 2] == 0)] = 0
    (a, b), (c, d) = places[-2:] - places[-3]
    return np.take_along_axis(found, scene.partners[scene.labels][..., None], axis=1) if a * d < b * c else found
