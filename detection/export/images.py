"""Images for the parity gate: given ones, or synthetic ones that cover what goes wrong in exports."""

from collections.abc import Sequence

import cv2
import numpy as np

from detection.data.image import Depth, read_image
from detection.inference.sources import sources
from detection.models.detector import Detector
from detection.shapes import draw_scene

SIDES = (240, 320)
"""(height, width) of most synthetic images."""
MOST_GIVEN = 32
"""Largest number of images from a folder."""


def synthetic_images(model: Detector, large: bool = False) -> list[tuple[str, np.ndarray]]:
    """Return synthetic images, name and pixels, with the channels and depth of a detector.

    They are: no object, one, a thousand; a batch of three; odd sizes, one color, one pixel high.

    Args:
        large: also return images that shrink by more than half: an export that resizes has another way for them.
    """
    rng = np.random.default_rng(0)
    empty = draw_scene(7, *SIDES, rng)[0]
    one = cv2.circle(empty.copy(), (SIDES[1] // 2, SIDES[0] // 2), SIDES[0] // 4, (222, 70, 60), -1)
    crowded = empty.copy()
    for x, y, *colour in zip(
        *(rng.integers(0, most, 1000) for most in (SIDES[1], SIDES[0], 256, 256, 256)), strict=True
    ):
        side = int(rng.integers(3, 12))
        cv2.rectangle(crowded, (int(x), int(y)), (int(x) + side, int(y) + side), [int(c) for c in colour], -1)
    found = [("no object", empty), ("one object", one), ("a thousand objects", crowded)]
    found += [(f"batch of three, {k + 1}", draw_scene(k, 200, 300, rng)[0]) for k in range(3)]
    found += [
        ("odd sizes", draw_scene(3, 333, 217, rng)[0]),
        ("one color", np.full((180, 260, 3), 128, np.uint8)),
        ("one pixel high", draw_scene(4, 64, 300, rng)[0][32:33]),
    ]
    if large:
        short = model.test_size[0]
        found += [
            (name, draw_scene(k, int(factor * short), int(1.3 * factor * short), rng)[0])
            for k, (name, factor) in enumerate({"larger, by a fraction": 2.3, "three times as large": 3}.items())
        ]
    return [(name, _as_of(image, model)) for name, image in found]


def given_images(named: Sequence[str], channels: int = 3, depth: Depth = 8) -> list[tuple[str, np.ndarray]]:
    """Read images for a comparison, at most :data:`MOST_GIVEN`.

    Args:
        named: files, folders and patterns.
        channels, depth: number of channels, and bits of each.

    Raises:
        ValueError: there are none, or one cannot be read.
    """
    found = [source for source in sources(list(named)) if source.kind == "image"][:MOST_GIVEN]
    if not found:
        raise ValueError(f"{', '.join(named)}: contains no image for the comparison; give image files or folders")
    return [(one.name, read_image(one.path, channels=channels, depth=depth)) for one in found]


def _as_of(image: np.ndarray, model: Detector) -> np.ndarray:
    """Return an RGB image with other channels and another depth."""
    channels = np.resize(np.arange(3), len(model.pixel_mean))
    image = np.ascontiguousarray(image[:, :, channels])
    return image.astype(np.uint16) * 257 if model.depth == 16 else image
