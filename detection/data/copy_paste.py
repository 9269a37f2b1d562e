"""Simple copy-paste: objects of one image on another."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from detection.coco.bitmaps import bitmap_bounds
from detection.coco.patches import Patch, patch_to_rle
from detection.coco.segmentation import Segmentation
from detection.data.limits import check_probability
from detection.data.mixing import Mix, Partner, joined, pixels_of, settled
from detection.data.scene import Scene, cut


@dataclass(frozen=True)
class CopyPaste(Mix):
    """Paste a random part of the objects of a second training image; they hide what lies below.

    Ghiasi et al. 2021 (Simple Copy-Paste), without their blending, which they found to make no difference. The number
    of objects, and the rule by which hidden ones are removed, are those of mmdetection. Crowds, and objects without a
    mask, are not pasted.
    """

    p: float = 1.0
    """Probability that objects are pasted on an image."""
    most: int = 100
    """Objects pasted on an image at most."""
    shift: float = 10.0
    """An object below stays if no side of its box moves further, in pixels, ..."""
    area: int = 300
    """... or if more pixels of its mask stay visible. Objects without a visible pixel never stay."""

    def check(self) -> None:
        """Reject settings that cannot be.

        Raises:
            ValueError: no probability, or a number below 0.
        """
        check_probability("data.copy_paste.p", self.p)
        if min(self.most, self.shift, self.area) < 0:
            raise ValueError("data.copy_paste: most, shift and area must not be below 0")

    def mix(self, scene: Scene, generator: np.random.Generator, partner: Partner) -> Scene:
        """Return the scene with objects of a partner on it."""
        if generator.random() >= self.p:
            return scene
        above = self._chosen(_fitted(partner(), scene), generator)
        pasted = pixels_of(above, range(len(above.boxes)))
        return self._pasted(scene, above, pasted) if pasted else scene

    def _chosen(self, other: Scene, generator: np.random.Generator) -> Scene:
        """Return the partner with a random number of its objects, from none to all."""
        known = np.array([one is not None for one in other.segmentations], dtype=bool)
        usable = np.flatnonzero(known & ~other.crowd)
        count = int(generator.integers(min(len(usable), self.most) + 1))
        keep = np.zeros(len(other.boxes), dtype=bool)
        keep[generator.choice(usable, count, replace=False) if count else usable[:0]] = True
        return other.chosen(keep)

    def _pasted(self, below: Scene, above: Scene, pasted: list[Patch]) -> Scene:
        covered = np.zeros(below.image.shape[:2], dtype=bool)
        for one in pasted:
            covered[one.place] |= one.pixels
        below = _with_hidden_keypoints(self._hidden(settled(below), covered, _around(pasted)), covered)
        image = below.image.copy()
        _copy(above.image, covered, image, _around(pasted))
        return joined([below, above], image)

    def _hidden(self, below: Scene, covered: np.ndarray, around: tuple[int, int, int, int]) -> Scene:
        """Return the lower scene whose masks lose the covered pixels."""
        left, top, right, bottom = around
        apart = (below.boxes[:, :2] >= [right, bottom]).any(axis=1) | (below.boxes[:, 2:] <= [left, top]).any(axis=1)
        near = [k for k in np.flatnonzero(~apart).tolist() if _touches(covered, below.boxes[k])]
        boxes, keep = below.boxes.copy(), np.ones(len(below.boxes), dtype=bool)
        segmentations: list[Segmentation] = list(below.segmentations)
        for k, patch in zip(near, pixels_of(below, near), strict=True):
            hidden = covered[patch.place]
            if segmentations[k] is None:  # nobody knows which pixels of the box are the object's
                keep[k] = not hidden.all()
                continue
            if not (hidden & patch.pixels).any():
                continue
            visible = patch.pixels & ~hidden
            area = int(visible.sum())
            if area == 0:
                keep[k] = False
                continue
            boxes[k] = _bounds(patch, visible)
            stays = area > self.area or np.abs(boxes[k] - below.boxes[k]).max() <= self.shift
            keep[k] = stays or below.crowd[k]  # detectors must not learn from any visible part of a crowd
            segmentations[k] = patch_to_rle(Patch(patch.top, patch.left, visible), *covered.shape)
        return replace(below, boxes=boxes, segmentations=segmentations).chosen(keep)


def _with_hidden_keypoints(scene: Scene, covered: np.ndarray) -> Scene:
    """Return the scene whose visible keypoints are hidden, 1 instead of 2, where pixels are covered."""
    if scene.keypoints is None:
        return scene
    points = scene.keypoints.copy()
    height, width = covered.shape
    column, row = np.floor(points[..., :2]).clip(0, [width - 1, height - 1]).astype(int).transpose(2, 0, 1)
    points[..., 2] = np.where(covered[row, column], np.minimum(points[..., 2], 1), points[..., 2])
    return replace(scene, keypoints=points)


def _touches(covered: np.ndarray, box: np.ndarray) -> bool:
    """Return whether a pixel of the box is covered, before its mask is drawn at a cost."""
    (left, top), (right, bottom) = np.floor(box[:2]).clip(0).astype(int), np.ceil(box[2:]).astype(int)
    return bool(covered[top:bottom, left:right].any())


def _fitted(other: Scene, scene: Scene) -> Scene:
    """Return a scene without what is to the right of another one's image, or below it."""
    height, width = (min(a, b) for a, b in zip(other.image.shape[:2], scene.image.shape[:2], strict=True))
    return cut(other.moved(other.image[:height, :width], (1, 1), (0, 0)))


def _around(pasted: list[Patch]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of all windows."""
    rows, columns = zip(*(one.place for one in pasted), strict=True)
    left, top = min(one.start for one in columns), min(one.start for one in rows)
    return left, top, max(one.stop for one in columns), max(one.stop for one in rows)


def _bounds(patch: Patch, visible: np.ndarray) -> np.ndarray:
    """Return the box around the visible pixels, of which there is at least one."""
    found = bitmap_bounds(visible)
    assert found is not None
    return np.array(found, dtype=np.float64) + [patch.left, patch.top, patch.left, patch.top]


def _copy(source: np.ndarray, where: np.ndarray, target: np.ndarray, around: tuple[int, int, int, int]) -> None:
    """Overwrite the pixels of an image that are marked; none is outside of ``around``."""
    left, top, right, bottom = around
    window = np.s_[top:bottom, left:right]
    if target.shape[2] <= 4:  # all that OpenCV copies at a time
        cv2.copyTo(source[window], where[window].view(np.uint8), target[window])
    else:
        np.copyto(target[window], source[window], where=where[window][..., None])
