"""Augmentation that combines several images: what copy-paste, mosaic and mixup share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from detection.coco.patches import Patch, patch_to_rle
from detection.coco.segmentation import Segmentation
from detection.data.scene import Scene, joined_keypoints, pixel_bitmaps

Partner = Callable[[], Scene]
"""Loads another image, chosen by the generator of the sample, and applies the transforms before this one to it."""


class Mix(ABC):
    """A transform that takes further images."""

    @abstractmethod
    def mix(self, scene: Scene, generator: np.random.Generator, partner: Partner) -> Scene:
        """Combine a scene with others.

        Args:
            scene: of the sample's own image.
            generator: all random choices come from it.
            partner: gives another scene at each call.
        """

    def factor(self, height: int, width: int) -> float:
        """Return the pixels that become of one pixel of an image of that size; 0 if it keeps its size."""
        return 0.0


def pixels_of(scene: Scene, numbers: Sequence[int]) -> list[Patch]:
    """Return the pixels of some objects of a scene: those whose centres are in the mask and in the box."""
    height, width = scene.image.shape[:2]
    low = np.floor(scene.boxes[:, :2]).clip(0).astype(int)
    high = np.ceil(scene.boxes[:, 2:]).clip(0, [width, height]).astype(int)
    sides = (high - low).clip(1)
    found: dict[int, Patch] = {}
    # One call draws objects of like size: each has room for the largest of them.
    classes = np.ceil(np.log2(np.maximum(sides.max(axis=1), 16))).astype(int) if len(sides) else sides
    for room in sorted({int(classes[k]) for k in numbers}):
        alike = [k for k in numbers if classes[k] == room]
        side = int(sides[alike].max())
        frames = np.concatenate([low[alike], low[alike] + side], axis=1).astype(np.float64)
        for k, bitmap in zip(alike, pixel_bitmaps(scene, alike, frames, side), strict=True):
            columns, rows = sides[k].tolist()
            own = bitmap[:rows, :columns].astype(bool)
            if not own.any() and own.size:  # smaller than a pixel, between their centres
                own[rows // 2, columns // 2] = True
            found[k] = Patch(int(low[k, 1]), int(low[k, 0]), own[: height - low[k, 1], : width - low[k, 0]])
    return [found[k] for k in numbers]


def settled(scene: Scene) -> Scene:
    """Return the scene with its masks in pixels of its own image: polygons as polygons, RLEs as RLEs."""
    if (scene.scale == 1).all() and (scene.offset == 0).all():
        return scene
    encoded = [k for k, segmentation in enumerate(scene.segmentations) if isinstance(segmentation, dict)]
    rles = {
        k: patch_to_rle(one, *scene.image.shape[:2]) for k, one in zip(encoded, pixels_of(scene, encoded), strict=True)
    }
    moved: list[Segmentation] = [
        [polygon * scene.scale + scene.offset for polygon in one] if isinstance(one, list) else rles.get(k)
        for k, one in enumerate(scene.segmentations)
    ]
    return replace(scene, segmentations=moved, keypoints=scene.points(), scale=np.ones(2), offset=np.zeros(2))


def joined(scenes: Sequence[Scene], image: np.ndarray) -> Scene:
    """Return the objects of several scenes, whose pixels are those of one image, on that image."""
    parts = [settled(replace(scene, image=image)) for scene in scenes]
    return replace(
        parts[0],
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        segmentations=[segmentation for part in parts for segmentation in part.segmentations],
        keypoints=joined_keypoints(parts),
    )
