"""Apply transforms of the albumentations library to an image together with its objects."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detection.coco.bitmaps import bitmap_bounds
from detection.data.augmented_keypoints import from_keypoints, to_keypoints
from detection.data.scene import Scene, joined_keypoints, with_channels

MASKS = 128
"""Number of full-size masks that albumentations transforms at a time; it limits the memory."""


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
        self._sees_keypoints = False

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        if self._sees_keypoints != (scene.keypoints is not None):
            self._sees_keypoints, self._compose = scene.keypoints is not None, None
        self._composed()
        seed = int(generator.integers(2**63))
        if self._keeps_geometry:
            return replace(scene, image=self._seeded(seed, image=scene.image)["image"])
        boxes = {"bboxes": _whole_pixels(scene)} if self._sees_boxes else {}
        if scene.semantic is not None:
            boxes |= to_mask(scene)
        if not len(scene.boxes):
            nothing = np.zeros((1, *scene.image.shape[:2]), dtype=np.uint8)  # some transforms require a mask
            targets = {"masks": nothing, **boxes, **to_keypoints(scene)}
            return from_mask(scene, self._seeded(seed, image=scene.image, **targets))
        images, parts = [], []
        for start in range(0, len(scene.boxes), MASKS):
            chosen = np.zeros(len(scene.boxes), dtype=bool)
            chosen[start : start + MASKS] = True
            part = scene.chosen(chosen)
            masks = _full_frames(part)
            points = to_keypoints(part)
            moved = self._seeded(seed, image=scene.image, masks=masks, **boxes, **points)
            images.append(np.ascontiguousarray(moved["image"]))
            if start and not np.array_equal(images[0], images[-1]):
                raise ValueError(
                    f"data.augment: a transform depends on the masks, which it gets in groups of {MASKS}; remove it"
                )
            after = np.asarray(moved["masks"])
            part = replace(part, image=images[0])
            # If nothing moved, keep the exact boxes and polygons.
            stays = np.array_equal(after, masks) and all(np.allclose(moved[key], points[key]) for key in points)
            stays &= "mask" not in boxes or np.array_equal(moved["mask"], boxes["mask"])
            parts.append(part if stays else from_mask(_from_full_frames(part, after, moved.get("keypoints")), moved))
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
            points = albumentations.KeypointParams(format="xy", remove_invisible=False)
            self._compose = albumentations.Compose(
                self.transforms,
                bbox_params=params,
                keypoint_params=points if self._sees_keypoints and not self._keeps_geometry else None,
                strict=True,
            )
        return self._compose

    def __getstate__(self) -> dict[str, Any]:
        return {"transforms": self.transforms, "_compose": None, "_sees_keypoints": False}


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
        image = with_channels(image)
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
        parts = [_from_full_frames(part, _full_frames(part), **to_keypoints(part)) for part in parts]
    return replace(
        parts[0],
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        segmentations=[segmentation for part in parts for segmentation in part.segmentations],
        keypoints=joined_keypoints(parts),
    )


def to_mask(scene: Scene) -> dict[str, Any]:
    """Return ``mask`` for albumentations: the semantic map plus 1, so that 0, with which it fills, is no label."""
    found = scene.semantic_map()
    assert found is not None
    return {"mask": found + np.uint8(1)}


def from_mask(scene: Scene, moved: dict[str, Any]) -> Scene:
    """Return the scene with the transformed image and semantic map, if it has one; its objects stay as they are."""
    scene = replace(scene, image=moved["image"])
    if "mask" not in moved:
        return scene
    semantic = np.asarray(moved["mask"]) - np.uint8(1)
    return replace(scene, semantic=semantic, content=None, scale=np.ones(2), offset=np.zeros(2))


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
        if not masks[k].any():  # smaller than a pixel, or all of it outside of its box
            y, x = (int(v) for v in (box[[1, 0]] + box[[3, 2]]) / 2)
            masks[k, y, x] = 1
    return masks


def _from_full_frames(scene: Scene, masks: np.ndarray, keypoints: np.ndarray | None = None) -> Scene:
    """Return the scene with boxes and RLEs made from full-size masks (k, H, W); drop objects without a pixel.

    Args:
        keypoints: those of albumentations, if the scene has any.
    """
    from pycocotools import mask as coco_mask

    boxes, keep, segmentations = np.zeros((len(masks), 4)), np.zeros(len(masks), dtype=bool), []
    for k, mask in enumerate(masks):
        if (bounds := bitmap_bounds(mask)) is not None:
            boxes[k], keep[k] = bounds, True
        known = scene.segmentations[k] is not None
        segmentations.append(coco_mask.encode(np.asfortranarray(mask)) if keep[k] and known else None)
    still = {"semantic": scene.semantic_map(), "content": None, "scale": np.ones(2), "offset": np.zeros(2)}
    moved = replace(scene, boxes=boxes, segmentations=segmentations, **still)  # type: ignore[arg-type]
    points = None if keypoints is None else from_keypoints(scene, keypoints, masks.shape[1:])
    return replace(moved, keypoints=points).chosen(keep)


def _albumentations() -> Any:
    import os

    # Without this setting, every process that imports the library contacts a server to check for a new version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
