"""Large-scale jitter: an image of any scale, cut or padded to one size."""

from dataclasses import dataclass, replace

import numpy as np

from detection.data.limits import check_size
from detection.data.resizing import filled, resized
from detection.data.scene import Scene, cut
from detection.structures import ResizeMethod

PADDING = 128
"""Gray of the padding, as in detectron2."""


@dataclass(frozen=True)
class JitterConfig:
    """How large images become before they are cut or padded, and the size after that."""

    scale: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest size of the resized image, as a factor of ``size``; 0.8 and 1.25 are the standard jitter."""
    size: tuple[int, int] = (1024, 1024)
    """Height and width of every image after the cut and the padding."""

    def check(self) -> None:
        """Reject settings that no image can have.

        Raises:
            ValueError: a scale that is not above 0, a range that ends before it begins, or an empty size.
        """
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"data.jitter.scale {list(self.scale)} must be two factors above 0, the smaller one first")
        check_size("data.jitter.size", self.size)


class LargeScaleJitter:
    """Resize by a random factor, then cut or pad to one size.

    Ghiasi et al. 2021 (Simple Copy-Paste), section 3. detectron2 calls the two parts ResizeScale and FixedSizeCrop.

    Args:
        config: the factors and the size.
        method: how to resize.

    Example:
        >>> scene = Scene(np.zeros((480, 640, 3), np.uint8), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool), [])
        >>> LargeScaleJitter(JitterConfig())(scene, np.random.default_rng(0)).image.shape
        (1024, 1024, 3)
    """

    def __init__(self, config: JitterConfig, method: ResizeMethod = "opencv") -> None:
        self.config, self.method = config, method

    def decide(self, generator: np.random.Generator) -> "Zoom":
        """Draw the factor, before the image is read: a small result needs no large image."""
        return Zoom(float(generator.uniform(*self.config.scale)), self.config.size, self.method)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        return self.decide(generator)(scene, generator)


@dataclass(frozen=True)
class Zoom:
    """Resize by a given factor, then cut or pad.

    The cut comes first, in whole pixels of the image before resizing, so that no pixel is computed in vain.
    """

    scale: float
    size: tuple[int, int]
    method: ResizeMethod = "opencv"

    def factor(self, height: int, width: int) -> float:
        """Return the scale of an image of a size: pixels after resizing per pixel before."""
        return self.scale * min(self.size[0] / height, self.size[1] / width)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        height, width = scene.image.shape[:2]
        factor = self.factor(height, width)
        (top, height, rows), (left, width, columns) = (
            _window(old, new, factor, generator) for old, new in zip((height, width), self.size, strict=True)
        )
        window = scene.image[top : top + height, left : left + width]
        image = resized(np.ascontiguousarray(window), rows, columns, self.method)
        scene = cut(scene.moved(image, (1, 1), (-left, -top)).moved(image, (columns / width, rows / height), (0, 0)))
        if (rows, columns) == self.size:
            return scene
        canvas = filled((*self.size, image.shape[2]), image, PADDING)
        canvas[:rows, :columns] = image
        content = np.array([0, 0, columns, rows], dtype=np.float64)
        return replace(scene.moved(canvas, (1, 1), (0, 0)), content=content)


def _window(old: int, new: int, factor: float, generator: np.random.Generator) -> tuple[int, int, int]:
    """Return the first pixel of one side that stays, the number of them, and the pixels that they become."""
    whole = max(1, round(old * factor))
    if whole <= new:
        return 0, old, whole
    kept = max(1, min(old, round(new / factor)))
    return int(generator.integers(old - kept + 1)), kept, new
