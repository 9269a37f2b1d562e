"""Augment and resize an image together with its objects.

Flips, crops and resizing are affine for each axis: ``new = old * scale + offset``. A scene accumulates these two
numbers per axis and leaves its masks unchanged. After the last transform, :func:`draw_masks` rasterises each original
polygon or RLE inside its final box. So masks are exact, and their cost does not depend on the number of transforms.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from detection.coco.rle import rle_to_bitmap
from detection.coco.segmentation import Segmentation
from detection.ops.masks import UNKNOWN
from detection.ops.polygons import polygons_to_bitmaps
from detection.ops.resize import averages
from detection.structures import ResizeMethod

MIN_VISIBLE = 1.0
"""A crop drops an object if a side of its remaining box is shorter than this, in pixels."""

MASKS = 128
"""Number of full-size masks that albumentations transforms at a time; it limits the memory."""


@dataclass(frozen=True)
class Scene:
    """An image and its k objects between two transforms."""

    image: np.ndarray
    """(H, W, C) uint8 or uint16; RGB if C is 3."""
    boxes: np.ndarray
    """(k, 4) float64 XYXY in pixels of ``image``."""
    labels: np.ndarray
    crowd: np.ndarray
    segmentations: list[Segmentation]
    """Original polygons or RLEs, in pixels of the annotated image."""
    scale: np.ndarray = field(default_factory=lambda: np.ones(2))
    """(x, y): scale from the annotated image to this one; negative on a flipped axis."""
    offset: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """(x, y): offset from the annotated image to this one, in pixels of this one."""
    wanted: tuple[int, int] | None = None
    """(height, width) to which the device will resize ``image``; the boxes are in these pixels already."""
    mirrored: bool = False
    """The device will flip ``image`` horizontally; the boxes are flipped already."""

    def moved(self, image: np.ndarray, scale: Sequence[float], offset: Sequence[float]) -> "Scene":
        """Return the scene for a new image, with coordinates ``old * scale + offset``.

        Args:
            image: (H, W, C), the transformed image.
            scale: factor for x and y.
            offset: shift in pixels for x and y.
        """
        factor, shift = np.array(scale, dtype=np.float64), np.array(offset, dtype=np.float64)
        corners = self.boxes.reshape(-1, 2, 2) * factor + shift
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return replace(self, image=image, boxes=boxes, scale=self.scale * factor, offset=self.offset * factor + shift)

    def chosen(self, keep: np.ndarray) -> "Scene":
        """Return the scene with only the objects for which ``keep``, (k,) bool, is true."""
        numbers = np.flatnonzero(keep)
        return replace(
            self,
            boxes=self.boxes[numbers],
            labels=self.labels[numbers],
            crowd=self.crowd[numbers],
            segmentations=[self.segmentations[k] for k in numbers],
        )

    def bitmap(self, k: int, size: int = 112, box: np.ndarray | None = None) -> np.ndarray:
        """Return mask ``k`` as (size, size) uint8 in the frame of its own box, or of ``box``."""
        frame = self._then((self.boxes[k] if box is None else box)[None])
        return self._turned(_draw([self.segmentations[k]], frame, size))[0]

    def _then(self, boxes: np.ndarray) -> np.ndarray:
        """Convert boxes (n, 4) from pixels of this image to pixels of the annotated image."""
        corners = (boxes.reshape(-1, 2, 2) - self.offset) / self.scale
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)

    def _turned(self, bitmaps: np.ndarray) -> np.ndarray:
        """Flip bitmaps of the annotated image along the axes on which this image is flipped."""
        mirrored = tuple(slice(None, None, -1 if factor < 0 else 1) for factor in self.scale[::-1])
        return np.ascontiguousarray(bitmaps[:, *mirrored])


def draw_masks(scenes: Sequence[Scene], size: int = 112) -> list[np.ndarray]:
    """Rasterise the masks of several scenes in one call, which is faster than one call per scene.

    Returns:
        For each scene (k, size, size) uint8, each mask in the frame of its box. An object without a mask, and a crowd,
        which training never uses as a mask, is filled with ``UNKNOWN``.
    """
    learned = [None if c else s for one in scenes for s, c in zip(one.segmentations, one.crowd.tolist(), strict=True)]
    then = np.concatenate([scene._then(scene.boxes) for scene in scenes])
    ends = np.cumsum([len(scene.boxes) for scene in scenes])
    drawn = np.split(_draw(learned, then, size), ends[:-1])
    return [scene._turned(bitmaps) for scene, bitmaps in zip(scenes, drawn, strict=True)]


def _draw(segmentations: Sequence[Segmentation], boxes: np.ndarray, size: int) -> np.ndarray:
    """Rasterise segmentations to (n, size, size) uint8; segmentations and boxes are in the same pixels."""
    bitmaps = polygons_to_bitmaps([s if isinstance(s, list) else [] for s in segmentations], boxes, size)
    for k, segmentation in enumerate(segmentations):
        if segmentation is None:
            bitmaps[k] = UNKNOWN
        elif not isinstance(segmentation, list):
            bitmaps[k] = rle_to_bitmap(segmentation, boxes[k], size)
    return bitmaps


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
        image = scene.image if self.later else _with_channels(cv2.flip(scene.image, 1))
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
        method: interpolation; see :data:`~detection.structures.ResizeMethod`.
        later: the device resizes the pixels (:func:`~detection.ops.resize.resize_images`). Use it only for the last
            transform.
    """

    def __init__(
        self,
        short_side: int | Sequence[int],
        long_side: int = 1333,
        method: ResizeMethod = "opencv",
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
        rows, columns = self.size(height, width, short_side)
        if self.method == "tensor":
            return _resize_tensor(image, rows, columns)
        if (rows, columns) == (height, width):
            return image
        if self.method == "pillow":
            if image.dtype != np.uint8 or image.shape[2] != 3:
                raise ValueError("data.resize: pillow supports only 8-bit RGB images; use opencv")
            return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        area = self.method == "opencv" and averages((height, width), (rows, columns))
        how = cv2.INTER_AREA if area else cv2.INTER_LINEAR
        # OpenCV's INTER_AREA supports at most four channels, and it drops the axis of a single channel.
        fours = [image[..., k : k + 4] for k in range(0, image.shape[2], 4)]
        parts = [_with_channels(cv2.resize(four, (columns, rows), interpolation=how)) for four in fours]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def size(self, height: int, width: int, short_side: int | None = None) -> tuple[int, int]:
        """Return (height, width) after resizing; of several short sides it takes the largest."""
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


def _with_channels(image: np.ndarray) -> np.ndarray:
    """Return the image as (H, W, C): add the axis of a single channel, which OpenCV drops."""
    return image if image.ndim == 3 else image[..., None]


def _resize_tensor(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Resize like torchvision's detectors: the scale comes from the rounded sides, and pixels stay float32."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    if image.dtype == np.uint16:
        pixels /= 257
    resized = F.interpolate(pixels, size=(rows, columns), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


class Albumentations:
    """Apply transforms of the albumentations library to a scene, and avoid three of its problems.

    * Its own seed repeats in every worker and epoch. Here the toolkit's generator gives one random stream per image.
    * It drops boxes, but not the masks that belong to them. Here each box is computed from the transformed mask.
    * It converts labels to float32. Here it never gets the labels.

    It gets boxes only for transforms that need them to choose a crop, such as BBoxSafeRandomCrop.

    Args:
        transforms: transforms of albumentations, applied in this order.

    Raises:
        ValueError: a transform does not know an argument, needs labels or other data that it cannot get here, or
            changes the dtype or the number of channels.
    """

    def __init__(self, transforms: Sequence[object]) -> None:
        self.transforms = list(transforms)
        self._compose: Any = None

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        self._composed()
        seed = int(generator.integers(2**63))
        if self._keeps_geometry:
            return replace(scene, image=self._seeded(seed, image=scene.image)["image"])
        boxes = {"bboxes": _whole_pixels(scene)} if self._sees_boxes else {}
        if not len(scene.boxes):
            nothing = np.zeros((1, *scene.image.shape[:2]), dtype=np.uint8)  # some transforms require a mask
            return replace(scene, image=self._seeded(seed, image=scene.image, masks=nothing, **boxes)["image"])
        images, parts = [], []
        for start in range(0, len(scene.boxes), MASKS):
            chosen = np.zeros(len(scene.boxes), dtype=bool)
            chosen[start : start + MASKS] = True
            part = scene.chosen(chosen)
            masks = _full_frames(part)
            moved = self._seeded(seed, image=scene.image, masks=masks, **boxes)
            images.append(np.ascontiguousarray(moved["image"]))
            if start and not np.array_equal(images[0], images[-1]):
                raise ValueError(
                    f"data.augment: a transform depends on the masks, which it gets in groups of {MASKS}; remove it"
                )
            after = np.asarray(moved["masks"])
            part = replace(part, image=images[0])
            # If nothing moved, keep the exact boxes and polygons.
            parts.append(part if np.array_equal(after, masks) else _from_full_frames(part, after))
        return parts[0] if len(parts) == 1 else _together(parts)

    def _seeded(self, seed: int, image: np.ndarray, **targets: Any) -> dict[str, Any]:
        """Apply the transforms with random choices that depend only on the seed."""
        compose = self._composed()
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        moved = dict(compose(image=image, **targets))
        moved["image"] = _of_the_same_kind(moved["image"], image)
        return moved

    def _composed(self) -> Any:
        if self._compose is None:
            albumentations = _albumentations()
            self._keeps_geometry = all(isinstance(t, albumentations.ImageOnlyTransform) for t in self.transforms)
            every = list(_nested(self.transforms))
            if any(isinstance(t, albumentations.ConstrainedCoarseDropout) for t in every):
                raise ValueError(
                    "data.augment: ConstrainedCoarseDropout needs labels, which it cannot get here; use CoarseDropout"
                )
            choosers = (albumentations.BBoxSafeRandomCrop, albumentations.AtLeastOneBBoxRandomCrop)
            self._sees_boxes = any(isinstance(t, choosers) for t in every)
            params = albumentations.BboxParams(format="pascal_voc") if self._sees_boxes else None
            self._compose = albumentations.Compose(self.transforms, bbox_params=params, strict=True)
        return self._compose

    def __getstate__(self) -> dict[str, Any]:
        return {"transforms": self.transforms, "_compose": None}


def _nested(transforms: Sequence[object]) -> Iterator[object]:
    """Yield all transforms, including those inside containers such as OneOf."""
    for transform in transforms:
        yield transform
        yield from _nested(getattr(transform, "transforms", ()))


def _whole_pixels(scene: Scene) -> np.ndarray:
    """Return the boxes (k, 4) enlarged to whole pixels, so that no crop around one is empty."""
    height, width = scene.image.shape[:2]
    boxes = np.concatenate([np.floor(scene.boxes[:, :2]), np.ceil(scene.boxes[:, 2:])], axis=1)
    return boxes.clip(0, [width, height, width, height])


def _of_the_same_kind(image: Any, before: np.ndarray) -> np.ndarray:
    """Return the image as (H, W, C); raise an error if its dtype or number of channels has changed."""
    if isinstance(image, np.ndarray):
        image = _with_channels(image)
        if image.dtype == before.dtype and image.shape[2] == before.shape[2]:
            return image
    raise ValueError(
        f"data.augment: a transform changed {before.dtype} {before.shape} to {image.dtype} {tuple(image.shape)}, but "
        "must keep dtype and channels; remove Normalize, ToFloat and ToTensorV2 (the model normalises its input)"
    )


def _together(parts: Sequence[Scene]) -> Scene:
    """Merge scenes of the same transformed image into one scene."""
    coordinates = {(*part.scale, *part.offset) for part in parts}
    if len(coordinates) > 1:  # some parts moved and some did not: convert all to pixels of this image
        parts = [_from_full_frames(part, _full_frames(part)) for part in parts]
    return replace(
        parts[0],
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        segmentations=[segmentation for part in parts for segmentation in part.segmentations],
    )


def cut(scene: Scene) -> Scene:
    """Clip the objects at the image border: make boxes tight around the visible part, and drop invisible objects."""
    height, width = scene.image.shape[:2]
    clipped = np.clip(scene.boxes, 0, [width, height, width, height])
    touched = (clipped != scene.boxes).any(axis=1)
    boxes = clipped.copy()
    for k in np.flatnonzero(touched).tolist():
        if (clipped[k, 2:] - clipped[k, :2] >= MIN_VISIBLE).all() and scene.segmentations[k] is not None:
            boxes[k] = _tight(scene.bitmap(k, box=clipped[k]), clipped[k])
    gone = touched & (boxes[:, 2:] - boxes[:, :2] < MIN_VISIBLE).any(axis=1)
    return replace(scene, boxes=boxes).chosen(~gone)


def _tight(bitmap: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the tight box around the pixels of a bitmap in the frame of ``box``; empty if no pixel is set."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if len(rows) == 0:
        return np.array([box[0], box[1], box[0], box[1]])
    cell = (box[2:] - box[:2]) / bitmap.shape[0]
    low, high = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
    return np.concatenate([box[:2] + low * cell, box[:2] + high * cell])


def _full_frames(scene: Scene) -> np.ndarray:
    """Return full-size masks (k, H, W) uint8; an object without a mask gets its whole box."""
    height, width = scene.image.shape[:2]
    masks = np.zeros((len(scene.boxes), height, width), dtype=np.uint8)
    for k, box in enumerate(scene.boxes):
        left, top = np.floor(box[:2]).astype(int).clip(0)
        right, bottom = np.minimum(np.ceil(box[2:]).astype(int), [width, height])
        if scene.segmentations[k] is None:
            masks[k, top:bottom, left:right] = 1
            continue
        # Draw a square frame with one cell per pixel, and take the part inside the box.
        side = max(right - left, bottom - top, 1)
        frame = np.array([left, top, left + side, top + side], dtype=np.float64)
        masks[k, top:bottom, left:right] = scene.bitmap(k, side, frame)[: bottom - top, : right - left]
        if not masks[k].any():  # an object smaller than a pixel, which covers no pixel centre
            y, x = (int(v) for v in (box[[1, 0]] + box[[3, 2]]) / 2)
            masks[k, min(y, height - 1), min(x, width - 1)] = 1
    return masks


def _from_full_frames(scene: Scene, masks: np.ndarray) -> Scene:
    """Return the scene with boxes and RLEs made from full-size masks (k, H, W); drop objects without a pixel."""
    from pycocotools import mask as coco_mask

    boxes, keep, segmentations = np.zeros((len(masks), 4)), np.zeros(len(masks), dtype=bool), []
    for k, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        keep[k] = len(rows) > 0
        if keep[k]:
            boxes[k] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        known = scene.segmentations[k] is not None
        segmentations.append(coco_mask.encode(np.asfortranarray(mask)) if keep[k] and known else None)
    moved = replace(scene, boxes=boxes, segmentations=segmentations, scale=np.ones(2), offset=np.zeros(2))
    return moved.chosen(keep)


def _albumentations() -> Any:
    import os

    # Without this setting, every process that imports the library contacts a server to check for a new version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
