"""Mixup: two images in one, half transparent."""

from dataclasses import dataclass

import cv2
import numpy as np

from detection.data.limits import check_probability
from detection.data.mixing import Mix, Partner, joined
from detection.data.resizing import filled
from detection.data.scene import Scene, cut

PADDING = 114
"""Gray where the second image does not reach, as in YOLOX and RTMDet."""


@dataclass(frozen=True)
class MixUp(Mix):
    """Blend a training image with a second one, in equal parts; the objects of both stay.

    Zhang et al. 2018, as YOLOX (Ge et al. 2021) does it: labels are not blended. A larger second image is cut at
    random, a smaller one lies at the top left.
    """

    p: float = 1.0
    """Probability that an image is blended."""

    def check(self) -> None:
        """Reject what is no probability.

        Raises:
            ValueError: with the value.
        """
        check_probability("data.mixup.p", self.p)

    def mix(self, scene: Scene, generator: np.random.Generator, partner: Partner) -> Scene:
        """Return the mean of the scene and a partner."""
        if generator.random() >= self.p:
            return scene
        other = partner()
        height, width = scene.image.shape[:2]
        top, left = (
            int(generator.integers(max(0, theirs - ours) + 1))
            for theirs, ours in zip(other.image.shape[:2], (height, width), strict=True)
        )
        window = other.image[top : top + height, left : left + width]
        other = cut(other.moved(window, (1, 1), (-left, -top)))
        second = filled(scene.image.shape, scene.image, PADDING)
        second[: window.shape[0], : window.shape[1]] = window
        blended = cv2.addWeighted(scene.image, 0.5, second, 0.5, 0).reshape(scene.image.shape)
        return joined([scene, other], blended)
