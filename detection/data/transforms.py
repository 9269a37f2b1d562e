"""Flip, crop and resize an image together with its objects."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

import cv2
import numpy as np

from detection.data.resizing import resized
from detection.data.scene import Scene, cut, with_channels
from detection.structures import ResizeMethod

DetectorResize = ResizeMethod | Literal["inside"]
"""How images reach a detector.  inside: as they are; an exported file resizes them itself."""


class Transform(Protocol):
    """A function from scene to scene; all its random choices come from the generator."""

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene: ...


class HorizontalFlip:
    """Flip the image and its objects horizontally.

    Args:
        p: probability of a flip.
        later: the device flips the pixels later. Use it only directly before a :class:`Resize` with ``later=True``.
    """

    def __init__(self, p: float = 0.5, later: bool = False) -> None:
        self.p, self.later = p, later

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        if generator.random() >= self.p:
            return scene
        image = scene.image if self.later else with_channels(cv2.flip(scene.image, 1))
        return replace(scene.moved(image, (-1, 1), (image.shape[1], 0)), mirrored=self.later)


class RandomCrop:
    """Crop a random window of at most ``height`` x ``width``, and shrink boxes to the visible part of their objects."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        height, width = (min(a, b) for a, b in zip(scene.image.shape[:2], (self.height, self.width), strict=True))
        top = int(generator.integers(0, scene.image.shape[0] - height + 1))
        left = int(generator.integers(0, scene.image.shape[1] - width + 1))
        window = np.ascontiguousarray(scene.image[top : top + height, left : left + width])
        return cut(scene.moved(window, (1, 1), (-left, -top)))


class Resize:
    """Resize so that the shorter side has ``short_side`` pixels, and the longer side at most ``long_side``.

    Args:
        short_side: length of the shorter side in pixels. If it is a list, the transform picks one for each image.
        long_side: largest length of the longer side in pixels.
        method: interpolation; see :data:`~detection.structures.ResizeMethod`. "inside" changes nothing.
        later: the device resizes the pixels (:func:`~detection.ops.resize.resize_images`). Use it only for the last
            transform.
    """

    def __init__(
        self,
        short_side: int | Sequence[int],
        long_side: int = 1333,
        method: DetectorResize = "opencv",
        later: bool = False,
    ) -> None:
        self.short_sides = [short_side] if isinstance(short_side, int) else list(short_side)
        self.long_side, self.method, self.later = long_side, method, later

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        short = self.short_sides[0]
        if len(self.short_sides) > 1:
            short = self.short_sides[int(generator.integers(len(self.short_sides)))]
        height, width = scene.image.shape[:2]
        if self.later:
            wanted = self.size(height, width, short)
            scene = scene.moved(scene.image, (wanted[1] / width, wanted[0] / height), (0, 0))
            return replace(scene, wanted=wanted)
        image = self.image(scene.image, short)
        # Boxes use the real scale, after the sides were rounded to whole pixels.
        return scene.moved(image, (image.shape[1] / width, image.shape[0] / height), (0, 0))

    def image(self, image: np.ndarray, short_side: int | None = None) -> np.ndarray:
        """Resize an image (H, W, C) without objects; method "tensor" returns float32, others keep the dtype."""
        height, width = image.shape[:2]
        if self.method == "inside":
            return image
        return resized(image, *self.size(height, width, short_side), self.method)

    def factor(self, height: int, width: int) -> float:
        """Return the pixels that become of one pixel of an image of that size, at most."""
        return max(self.short_sides) / min(height, width)

    def size(self, height: int, width: int, short_side: int | None = None) -> tuple[int, int]:
        """Return (height, width) after resizing; of several short sides it takes the largest."""
        if self.method == "inside":
            return height, width
        wish = short_side or max(self.short_sides)
        if self.method == "pillow":
            return _size_in_two_steps(height, width, wish, self.long_side)
        factor = min(wish / min(height, width), self.long_side / max(height, width))
        rounding = 0 if self.method == "tensor" else 0.5  # torchvision's detectors round down
        return max(1, int(height * factor + rounding)), max(1, int(width * factor + rounding))


def _size_in_two_steps(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Return (height, width) as detectron2 computes them: first scale to the short side, then limit the long side.

    Because of rounding, the result can differ by a pixel from one scaling by the smaller factor. For example,
    222 x 372 becomes 795 x 1333 instead of 796 x 1333.
    """
    factor = short / min(height, width)
    rows, columns = (float(short), factor * width) if height < width else (factor * height, float(short))
    if max(rows, columns) > long:
        factor = long / max(rows, columns)
        rows, columns = rows * factor, columns * factor
    return max(1, int(rows + 0.5)), max(1, int(columns + 0.5))
