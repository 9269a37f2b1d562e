"""Drawn digits in class folders, for tests of classifiers."""

from pathlib import Path

import cv2
import numpy as np

FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_PLAIN,
)


def digit(number: int, generator: np.random.Generator, side: int = 32) -> np.ndarray:
    """An image (side, side, 3) of a digit in a random font, at a random place, angle and brightness, with noise."""
    image = np.full((side, side), int(generator.integers(0, 80)), dtype=np.uint8)
    font = FONTS[int(generator.integers(len(FONTS)))]
    scale = float(generator.uniform(0.7, 0.95)) * (1.4 if font == cv2.FONT_HERSHEY_PLAIN else 1) * side / 32
    (width, height), _ = cv2.getTextSize(str(number), font, scale, 2)
    x, y = (side - width) / 2 + generator.uniform(-2, 2), (side + height) / 2 + generator.uniform(-2, 2)
    cv2.putText(image, str(number), (int(x), int(y)), font, scale, int(generator.integers(170, 255)), 2)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(generator.uniform(-12, 12)), 1)
    image = cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
    noisy = image + generator.normal(0, 12, image.shape)
    return np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write_digits(folder: Path, count: int, classes: int = 10, seed: int = 0, side: int = 32) -> Path:
    """Write ``folder/DIGIT/NUMBER.png``, ``count`` of each digit."""
    generator = np.random.default_rng(seed)
    for number in range(classes):
        place = folder / f"digit{number}"
        place.mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(place / f"{index}.png"), digit(number, generator, side))
    return folder
