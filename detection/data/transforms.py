"""Augmentation and resizing of an image together with its objects.

Mirroring, cropping and resizing are, for each axis, ``now = then * scale + offset``. A scene remembers the two
numbers per axis and leaves its masks alone; when all is done, a mask is cut from the original polygon or RLE in the
frame of the final box. So masks are exact, and cost the same however many transforms there are.
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
"""Objects of which a crop leaves less, in pixels of either side, are gone."""

MASKS = 128
"""Objects whose full masks albumentations moves at a time: bounds the memory."""


@dataclass(frozen=True)
class Scene:
    """An image and its objects on their way through the transforms; k objects."""

    image: np.ndarray
    """(H, W, C) uint8 or uint16; RGB if C is 3."""
    boxes: np.ndarray
    """(k, 4) float64 XYXY in pixels of ``image``."""
    labels: np.ndarray
    crowd: np.ndarray
    segmentations: list[Segmentation]
    """In pixels of the image that the annotations speak of."""
    scale: np.ndarray = field(default_factory=lambda: np.ones(2))
    """x, y: pixels now per pixel then; negative where mirrored."""
    offset: np.ndarray = field(default_factory=lambda: np.zeros(2))
    wanted: tuple[int, int] | None = None
    """Height, width that ``image`` will be resized to later; boxes are in those pixels already."""
    mirrored: bool = False
    """``image`` will be mirrored later; boxes are already."""

    def moved(self, image: np.ndarray, scale: Sequence[float], offset: Sequence[float]) -> "Scene":
        """The scene on an image whose pixels are ``old * scale + offset``."""
        factor, shift = np.array(scale, dtype=np.float64), np.array(offset, dtype=np.float64)
        corners = self.boxes.reshape(-1, 2, 2) * factor + shift
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return replace(self, image=image, boxes=boxes, scale=self.scale * factor, offset=self.offset * factor + shift)

    def chosen(self, keep: np.ndarray) -> "Scene":
        """The scene with some of its objects: ``keep`` is (k,) bool."""
        numbers = np.flatnonzero(keep)
        return replace(
            self,
            boxes=self.boxes[numbers],
            labels=self.labels[numbers],
            crowd=self.crowd[numbers],
            segmentations=[self.segmentations[k] for k in numbers],
        )

    def bitmap(self, k: int, size: int = 112, box: np.ndarray | None = None) -> np.ndarray:
        """(size, size) uint8: the ``k``-th mask in the frame of its box, or of another."""
        frame = self._then((self.boxes[k] if box is None else box)[None])
        return self._turned(_draw([self.segmentations[k]], frame, size))[0]

    def _then(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4): boxes in pixels of the image that the annotations speak of."""
        corners = (boxes.reshape(-1, 2, 2) - self.offset) / self.scale
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)

    def _turned(self, bitmaps: np.ndarray) -> np.ndarray:
        """Bitmaps as the annotations have them, as the image has them now."""
        mirrored = tuple(slice(None, None, -1 if factor < 0 else 1) for factor in self.scale[::-1])
        return np.ascontiguousarray(bitmaps[:, *mirrored])


def draw_masks(scenes: Sequence[Scene], size: int = 112) -> list[np.ndarray]:
    """Of each scene (k, size, size) uint8: the masks in the frames of their boxes; UNKNOWN where there is none.

    Crowds, which no mask is learned from, count as having none. Those of several scenes at once take less time.
    """
    learned = [None if c else s for one in scenes for s, c in zip(one.segmentations, one.crowd.tolist(), strict=True)]
    then = np.concatenate([scene._then(scene.boxes) for scene in scenes])
    ends = np.cumsum([len(scene.boxes) for scene in scenes])
    drawn = np.split(_draw(learned, then, size), ends[:-1])
    return [scene._turned(bitmaps) for scene, bitmaps in zip(scenes, drawn, strict=True)]


def _draw(segmentations: Sequence[Segmentation], boxes: np.ndarray, size: int) -> np.ndarray:
    """(n, size, size) uint8; segmentations and boxes in the same pixels."""
    bitmaps = polygons_to_bitmaps([s if isinstance(s, list) else [] for s in segmentations], boxes, size)
    for k, segmentation in enumerate(segmentations):
        if segmentation is None:
            bitmaps[k] = UNKNOWN
        elif not isinstance(segmentation, list):
            bitmaps[k] = rle_to_bitmap(segmentation, boxes[k], size)
    return bitmaps


class Transform(Protocol):
    """Anything that turns a scene into another; random choices come from the generator alone."""

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene: ...


class HorizontalFlip:
    """Mirror left and right.

    Args:
        p: probability.
        later: leave the pixels to the device; only right before a :class:`Resize` that does so, too.
    """

    def __init__(self, p: float = 0.5, later: bool = False) -> None:
        self.p, self.later = p, later

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        if generator.random() >= self.p:
            return scene
        image = scene.image if self.later else _with_channels(cv2.flip(scene.image, 1))
        return replace(scene.moved(image, (-1, 1), (image.shape[1], 0)), mirrored=self.later)


class RandomCrop:
    """Cut out a window of at most ``height`` x ``width``; boxes shrink to what is left of their objects."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        height, width = (min(a, b) for a, b in zip(scene.image.shape[:2], (self.height, self.width), strict=True))
        top = int(generator.integers(0, scene.image.shape[0] - height + 1))
        left = int(generator.integers(0, scene.image.shape[1] - width + 1))
        window = np.ascontiguousarray(scene.image[top : top + height, left : left + width])
        return cut(scene.moved(window, (1, 1), (-left, -top)))


class Resize:
    """Scale so that the shorter side has ``short_side`` pixels and the longer at most ``long_side``.

    Args:
        short_side: of several, one is drawn for each image.
        method: how; see :data:`~detection.structures.ResizeMethod`.
        later: leave the pixels to the device (:func:`~detection.ops.resize.resize_images`); only as the last transform.
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
        # Boxes follow the pixels, whose number is rounded, not the wished-for factor.
        return scene.moved(image, (image.shape[1] / width, image.shape[0] / height), (0, 0))

    def image(self, image: np.ndarray, short_side: int | None = None) -> np.ndarray:
        """Resize an image (H, W, C) alone; to float32 with method "tensor", else to its own type."""
        height, width = image.shape[:2]
        rows, columns = self.size(height, width, short_side)
        if self.method == "tensor":
            return _resize_tensor(image, rows, columns)
        if (rows, columns) == (height, width):
            return image
        if self.method == "pillow":
            if image.dtype != np.uint8 or image.shape[2] != 3:
                raise ValueError("data.resize pillow resizes 8-bit RGB alone; take opencv")
            return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        area = self.method == "opencv" and averages((height, width), (rows, columns))
        how = cv2.INTER_AREA if area else cv2.INTER_LINEAR
        # OpenCV averages four channels at most; of one it drops the axis.
        fours = [image[..., k : k + 4] for k in range(0, image.shape[2], 4)]
        parts = [_with_channels(cv2.resize(four, (columns, rows), interpolation=how)) for four in fours]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def size(self, height: int, width: int, short_side: int | None = None) -> tuple[int, int]:
        """Height, width after resizing."""
        wish = short_side or max(self.short_sides)
        if self.method == "pillow":
            return _size_in_two_steps(height, width, wish, self.long_side)
        factor = min(wish / min(height, width), self.long_side / max(height, width))
        rounding = 0 if self.method == "tensor" else 0.5  # torchvision's detectors round down
        return max(1, int(height * factor + rounding)), max(1, int(width * factor + rounding))


def _size_in_two_steps(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Height, width as detectron2 computes them: scaled to the short side, then, where too long, to the long side.

    In floating point this can differ by a pixel from one scaling by the smaller factor: 222 x 372 becomes
    795 x 1333 instead of 796 x 1333.
    """
    factor = short / min(height, width)
    rows, columns = (float(short), factor * width) if height < width else (factor * height, float(short))
    if max(rows, columns) > long:
        factor = long / max(rows, columns)
        rows, columns = rows * factor, columns * factor
    return max(1, int(rows + 0.5)), max(1, int(columns + 0.5))


def _with_channels(image: np.ndarray) -> np.ndarray:
    """(H, W, C), also where OpenCV has dropped a single channel."""
    return image if image.ndim == 3 else image[..., None]


def _resize_tensor(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """As torchvision's detectors do: the scale derived from the rounded sides, pixels not rounded."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    if image.dtype == np.uint16:
        pixels /= 257
    resized = F.interpolate(pixels, size=(rows, columns), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


class Albumentations:
    """Transforms of albumentations, with its traps wrapped.

    Its own seeding repeats in every worker and every epoch; it filters boxes but not the masks that belong to them;
    it sends labels through float32. So: one random stream per image from our generator, and boxes taken from the masks
    after anything that moves pixels. Its own boxes are only shown to transforms that choose by them, such as
    BBoxSafeRandomCrop.

    Raises:
        ValueError: an argument that a transform does not know, a transform that wants what it cannot have here, or one
            that gives an image of another type or number of channels.
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
            nothing = np.zeros((1, *scene.image.shape[:2]), dtype=np.uint8)  # some ask for a mask, whatever it shows
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
                raise ValueError("a transform of data.augment depends on the masks, which come in parts; leave it out")
            after = np.asarray(moved["masks"])
            part = replace(part, image=images[0])
            # What was not moved keeps its boxes to a fraction of a pixel, and its polygons.
            parts.append(part if np.array_equal(after, masks) else _from_full_frames(part, after))
        return parts[0] if len(parts) == 1 else _together(parts)

    def _seeded(self, seed: int, image: np.ndarray, **targets: Any) -> dict[str, Any]:
        """The same random choices for the same seed."""
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
                raise ValueError("ConstrainedCoarseDropout of data.augment has no labels here; take CoarseDropout")
            choosers = (albumentations.BBoxSafeRandomCrop, albumentations.AtLeastOneBBoxRandomCrop)
            self._sees_boxes = any(isinstance(t, choosers) for t in every)
            params = albumentations.BboxParams(format="pascal_voc") if self._sees_boxes else None
            self._compose = albumentations.Compose(self.transforms, bbox_params=params, strict=True)
        return self._compose

    def __getstate__(self) -> dict[str, Any]:
        return {"transforms": self.transforms, "_compose": None}


def _nested(transforms: Sequence[object]) -> Iterator[object]:
    """Transforms and those inside of them, as OneOf has."""
    for transform in transforms:
        yield transform
        yield from _nested(getattr(transform, "transforms", ()))


def _whole_pixels(scene: Scene) -> np.ndarray:
    """(k, 4): the smallest boxes of whole pixels around the objects, so that no crop is without area."""
    height, width = scene.image.shape[:2]
    boxes = np.concatenate([np.floor(scene.boxes[:, :2]), np.ceil(scene.boxes[:, 2:])], axis=1)
    return boxes.clip(0, [width, height, width, height])


def _of_the_same_kind(image: Any, before: np.ndarray) -> np.ndarray:
    """The image (H, W, C); refused if its type or channels are not those of the image before."""
    if isinstance(image, np.ndarray):
        image = _with_channels(image)
        if image.dtype == before.dtype and image.shape[2] == before.shape[2]:
            return image
    raise ValueError(
        f"data.augment makes {image.dtype} {tuple(image.shape)} of {before.dtype} {before.shape}, but must keep type "
        "and channels; leave out Normalize, ToFloat and ToTensorV2, as the model normalises (model.backbone.mean, std)"
    )


def _together(parts: Sequence[Scene]) -> Scene:
    """Scenes of one image, moved alike, as one."""
    still = {(*part.scale, *part.offset) for part in parts}
    if len(still) > 1:  # some were moved, some not: all in pixels of this image
        parts = [_from_full_frames(part, _full_frames(part)) for part in parts]
    return replace(
        parts[0],
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        segmentations=[segmentation for part in parts for segmentation in part.segmentations],
    )


def cut(scene: Scene) -> Scene:
    """The scene's objects cut at its image: tight boxes around what is visible, and nothing that is not."""
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
    """The box around what a bitmap in the frame of ``box`` shows; without area if that is nothing."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if len(rows) == 0:
        return np.array([box[0], box[1], box[0], box[1]])
    cell = (box[2:] - box[:2]) / bitmap.shape[0]
    low, high = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
    return np.concatenate([box[:2] + low * cell, box[:2] + high * cell])


def _full_frames(scene: Scene) -> np.ndarray:
    """(k, H, W) uint8 masks; the whole box where no mask is known."""
    height, width = scene.image.shape[:2]
    masks = np.zeros((len(scene.boxes), height, width), dtype=np.uint8)
    for k, box in enumerate(scene.boxes):
        left, top = np.floor(box[:2]).astype(int).clip(0)
        right, bottom = np.minimum(np.ceil(box[2:]).astype(int), [width, height])
        if scene.segmentations[k] is None:
            masks[k, top:bottom, left:right] = 1
            continue
        # One cell per pixel: the bitmap of a square frame, then its part.
        side = max(right - left, bottom - top, 1)
        frame = np.array([left, top, left + side, top + side], dtype=np.float64)
        masks[k, top:bottom, left:right] = scene.bitmap(k, side, frame)[: bottom - top, : right - left]
        if not masks[k].any():  # smaller than a pixel, between their centres
            y, x = (int(v) for v in (box[[1, 0]] + box[[3, 2]]) / 2)
            masks[k, min(y, height - 1), min(x, width - 1)] = 1
    return masks


def _from_full_frames(scene: Scene, masks: np.ndarray) -> Scene:
    """The scene whose objects are where their masks (k, H, W) are now; those without a pixel left are gone."""
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

    # Without this the library asks a server for its latest version, in every process that imports it.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
