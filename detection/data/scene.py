"""An image with its objects, and the geometry of its transforms.

Flips, crops and resizing are affine for each axis: ``new = old * scale + offset``. A scene accumulates these two
numbers per axis and leaves its masks unchanged. After the last transform, :func:`draw_masks` rasterises each original
polygon or RLE inside its final box. So masks are exact, and their cost does not depend on the number of transforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detection.coco.rle import rle_to_bitmap
from detection.coco.segmentation import Segmentation
from detection.data.visible import visible_boxes
from detection.ops.masks import UNKNOWN
from detection.ops.polygons import polygons_to_bitmaps
from detection.structures import UNLABELLED

MIN_VISIBLE = 1.0
"""A crop drops an object if a side of its remaining box is shorter than this, in pixels."""


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
    keypoints: np.ndarray | None = None
    """(k, P, 3) x, y, visibility, in pixels of the annotated image; None for a detector without keypoints."""
    partners: np.ndarray | None = None
    """(K, P) int64: for each class, which keypoint each one becomes in a flipped image."""
    semantic: np.ndarray | None = None
    """(h, w) uint8 semantic map, in pixels of the annotated image; None for a detector without a semantic head."""
    content: np.ndarray | None = None
    """(4,) XYXY, the part of ``image`` that is no padding; None: all of it."""
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
        boxes, content = _around(self.boxes.reshape(-1, 2, 2) * factor + shift), self.content
        if content is not None:
            content = _around(content.reshape(1, 2, 2) * factor + shift)[0]
        moved = replace(self, image=image, boxes=boxes, content=content)
        return replace(moved, scale=self.scale * factor, offset=self.offset * factor + shift)

    def chosen(self, keep: np.ndarray) -> "Scene":
        """Return the scene with only the objects for which ``keep``, (k,) bool, is true."""
        numbers = np.flatnonzero(keep)
        return replace(
            self,
            boxes=self.boxes[numbers],
            labels=self.labels[numbers],
            crowd=self.crowd[numbers],
            segmentations=[self.segmentations[k] for k in numbers],
            keypoints=None if self.keypoints is None else self.keypoints[numbers],
        )

    def semantic_map(self) -> np.ndarray | None:
        """Return the semantic map of this image, (H, W) uint8: of each pixel, the label at its centre."""
        if self.semantic is None:
            return None
        sides = self.wanted or self.image.shape[:2]
        content = np.array([0, 0, sides[1], sides[0]]) if self.content is None else self.content
        places, there = [], []
        for axis, (side, size) in enumerate(zip(sides[::-1], self.semantic.shape[::-1], strict=True)):
            centres = np.arange(side) + 0.5
            # A centre on the border of two old pixels belongs to the second, whatever the rounding.
            place = np.floor((centres - self.offset[axis]) / self.scale[axis] + 1e-9).astype(np.int64)
            shown = (centres > content[axis]) & (centres < content[axis + 2])
            places.append(place.clip(0, size - 1))
            there.append(shown & (place >= 0) & (place < size))
        (columns, rows), (in_columns, in_rows) = places, there
        found = self.semantic[rows][:, columns]
        found[~in_rows] = UNLABELLED
        found[:, ~in_columns] = UNLABELLED
        return found

    def points(self) -> np.ndarray | None:
        """Return the keypoints (k, P, 3) in pixels of this image; zero where they are not labelled.

        In a flipped image, left and right keypoints have changed places.
        """
        if self.keypoints is None:
            return None
        found = self.keypoints.copy()
        found[..., :2] = found[..., :2] * self.scale + self.offset
        found[found[..., 2] == 0] = 0
        if self.scale.prod() > 0:
            return found
        assert self.partners is not None
        return np.take_along_axis(found, self.partners[self.labels][..., None], axis=1)

    def bitmap(self, k: int, size: int = 112, box: np.ndarray | None = None) -> np.ndarray:
        """Return mask ``k`` as (size, size) uint8 in the frame of its own box, or of ``box``."""
        frame = self._then((self.boxes[k] if box is None else box)[None])
        return self._turned(_draw([self.segmentations[k]], frame, size))[0]

    def _then(self, boxes: np.ndarray) -> np.ndarray:
        """Convert boxes (n, 4) from pixels of this image to pixels of the annotated image."""
        return _around((boxes.reshape(-1, 2, 2) - self.offset) / self.scale)

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


def pixel_bitmaps(scene: Scene, numbers: Sequence[int], frames: np.ndarray, size: int) -> np.ndarray:
    """Rasterise some masks to (n, size, size) uint8, each in its own frame.

    Args:
        numbers: n objects of the scene.
        frames: (n, 4) XYXY in pixels of the scene's image.
    """
    return scene._turned(_draw([scene.segmentations[k] for k in numbers], scene._then(frames), size))


def _draw(segmentations: Sequence[Segmentation], boxes: np.ndarray, size: int) -> np.ndarray:
    """Rasterise segmentations to (n, size, size) uint8; segmentations and boxes are in the same pixels."""
    bitmaps = polygons_to_bitmaps([s if isinstance(s, list) else [] for s in segmentations], boxes, size)
    for k, segmentation in enumerate(segmentations):
        if segmentation is None:
            bitmaps[k] = UNKNOWN
        elif not isinstance(segmentation, list):
            bitmaps[k] = rle_to_bitmap(segmentation, boxes[k], size)
    return bitmaps


def cut(scene: Scene) -> Scene:
    """Clip the objects at the image border: make boxes tight around the visible part, and drop invisible objects."""
    height, width = scene.image.shape[:2]
    clipped = np.clip(scene.boxes, 0, [width, height, width, height])
    touched = (clipped != scene.boxes).any(axis=1)
    boxes = clipped.copy()
    visible = touched & (clipped[:, 2:] - clipped[:, :2] >= MIN_VISIBLE).all(axis=1)
    if visible.any():
        boxes[visible] = _visible(scene.chosen(visible), clipped[visible])
    gone = touched & (boxes[:, 2:] - boxes[:, :2] < MIN_VISIBLE).any(axis=1)
    return replace(scene, boxes=boxes, keypoints=_inside(scene)).chosen(~gone)


def _inside(scene: Scene) -> np.ndarray | None:
    """Return the keypoints of a scene, those outside its image not labelled."""
    if scene.keypoints is None:
        return None
    height, width = scene.image.shape[:2]
    places = scene.keypoints[..., :2] * scene.scale + scene.offset
    inside = ((places >= 0) & (places <= [width, height])).all(axis=2)
    return np.where(inside[..., None], scene.keypoints, 0)


def _visible(scene: Scene, clipped: np.ndarray) -> np.ndarray:
    """Return the exact boxes (k, 4) around the visible parts of masks; ``clipped`` where no mask is known."""
    height, width = scene.image.shape[:2]
    window = scene._then(np.array([[0, 0, width, height]], dtype=np.float64))[0]
    corners = visible_boxes(scene.segmentations, window).reshape(-1, 2, 2) * scene.scale + scene.offset
    boxes = _around(corners)
    # The part of a mask outside of its annotated box does not count.
    low, high = np.maximum(boxes[:, :2], clipped[:, :2]), np.minimum(boxes[:, 2:], clipped[:, 2:])
    nothing = np.isinf(corners).any(axis=(1, 2))
    low[nothing], high[nothing] = clipped[nothing, :2], clipped[nothing, :2]
    return np.concatenate([low, high], axis=1)


def _around(corners: np.ndarray) -> np.ndarray:
    """Return the boxes (k, 4) around corners (k, 2, 2), of which a flip exchanges the two."""
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def joined_keypoints(scenes: Sequence[Scene]) -> np.ndarray | None:
    """Return the keypoints of all objects of several scenes, (k, P, 3); None for a detector without keypoints."""
    found = [scene.keypoints for scene in scenes if scene.keypoints is not None]
    return np.concatenate(found) if found else None


def with_channels(image: np.ndarray) -> np.ndarray:
    """Return the image as (H, W, C): add the axis of a single channel, which OpenCV drops."""
    return image if image.ndim == 3 else image[..., None]
