"""Photometric distortion: brightness, contrast, saturation, hue and the order of the channels."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from detection.data.scene import Scene


@dataclass(frozen=True)
class PhotometricDistortion:
    """Change the colours of training images as SSD does, each change with probability one half.

    Liu et al. 2016 (SSD), section 3.6, in the form of mmdetection's PhotoMetricDistortion: brightness; contrast before
    or after saturation and hue; the order of the channels. Images without three channels change in brightness and
    contrast alone.

    Example:
        >>> scene = Scene(np.full((2, 2, 3), 99, np.uint8), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool), [])
        >>> PhotometricDistortion(brightness=0, contrast=(1, 1))(scene, np.random.default_rng(0)).image.max()
        np.uint8(99)
    """

    brightness: float = 32.0
    """Largest change of brightness, of 255."""
    contrast: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest factor of all channels."""
    saturation: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest factor of the saturation."""
    hue: float = 18.0
    """Largest turn of the hue, in degrees."""

    def check(self) -> None:
        """Reject ranges that end before they begin.

        Raises:
            ValueError: naming the setting.
        """
        if min(self.brightness, self.hue) < 0:
            raise ValueError("data.photometric: brightness and hue must not be below 0")
        for name, (low, high) in (("contrast", self.contrast), ("saturation", self.saturation)):
            if not 0 <= low <= high:
                raise ValueError(f"data.photometric.{name} must be two factors, the smaller one first")

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        most = 65535 if scene.image.dtype == np.uint16 else 255
        image = scene.image.astype(np.float32) * np.float32(255 / most)
        shift = self._drawn(generator, -self.brightness, self.brightness, 0)
        early = generator.random() < 0.5
        contrast = self._drawn(generator, *self.contrast, 1)
        saturation = self._drawn(generator, *self.saturation, 1)
        turn = self._drawn(generator, -self.hue, self.hue, 0)
        order = generator.permutation(3) if generator.random() < 0.5 else None
        image = (image + np.float32(shift)) * np.float32(contrast if early else 1)
        if image.shape[2] == 3:
            image = _recoloured(image, saturation, turn)
        image *= np.float32(1 if early else contrast)
        if image.shape[2] == 3 and order is not None:
            image = image[..., order]
        scaled = (image * np.float32(most / 255)).round().clip(0, most)
        return replace(scene, image=np.ascontiguousarray(scaled, dtype=scene.image.dtype))

    @staticmethod
    def _drawn(generator: np.random.Generator, low: float, high: float, otherwise: float) -> float:
        """Return a number of the range, or, half of the time, what changes nothing."""
        found = float(generator.uniform(low, high))
        return found if generator.random() < 0.5 else otherwise


def _recoloured(image: np.ndarray, saturation: float, turn: float) -> np.ndarray:
    """Return an RGB image of 0..255 with another saturation, and with its hue turned by an angle in degrees."""
    if saturation == 1 and turn == 0:
        return image
    hue, chroma, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    hue = (hue + np.float32(turn)) % 360
    found: np.ndarray = cv2.cvtColor(cv2.merge([hue, chroma * np.float32(saturation), value]), cv2.COLOR_HSV2RGB)
    return found
