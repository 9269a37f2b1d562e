"""The data that passes from the dataset through the detector to the evaluator.

B images, H x W canvas, G ground truths, P proposals, S RoI samples, D detections (G, P, S, D padded),
K classes, M mask side, N keypoints.  Boxes: XYXY float32 in pixels of the canvas, continuous: pixel (0, 0) covers
[0, 1) x [0, 1).  Labels: [0, K) a class, K background (RoI samples only), IGNORE padding.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from detection.categories import Categories as Categories

IGNORE = -1
UNLABELLED = 255


class Targets(NamedTuple):
    """Ground truth of a batch, padded to G objects per image."""

    boxes: Tensor
    """(B, G, 4) float32; zero on padding, so that its IoU with anything is zero."""
    labels: Tensor
    """(B, G) int64; IGNORE on padding."""
    crowd: Tensor
    """(B, G) bool: regions with many objects, neither positive nor negative."""
    masks: Tensor | None = None
    """(B, G, M, M) uint8, each covers its own box: 0, 1, or 255 for an unknown mask and for a crowd."""
    keypoints: Tensor | None = None
    """(B, G, N, 3) float32: x, y, and 0 (not labelled), 1 (hidden) or 2 (visible); all zero if not labelled."""
    semantic: Tensor | None = None
    """(B, H, W) uint8: the semantic class of each pixel; UNLABELLED on padding and on unlabelled pixels."""


class Batch(NamedTuple):
    """Images on canvases of one size, and their origin."""

    images: Tensor
    """(B, 3, H, W) uint8 RGB, zero outside the image; normalised on the device."""
    sizes: Tensor
    """(B, 2) int64: height, width of the image inside the canvas (top left)."""
    original_sizes: Tensor
    """(B, 2) int64: height, width of the file."""
    image_ids: Tensor
    """(B,) int64, always on the CPU; IGNORE on a padding image, which the evaluator ignores."""
    targets: Targets | None = None


class Proposals(NamedTuple):
    """Boxes that the RPN proposes."""

    boxes: Tensor
    """(B, P, 4), by falling score; zero on padding."""
    logits: Tensor
    """(B, P); -inf on padding."""


class RoISamples(NamedTuple):
    """The RoIs for the losses of the heads."""

    boxes: Tensor
    """(B, S, 4), positives first."""
    labels: Tensor
    """(B, S) int64: class, K background, IGNORE padding."""
    matched: Tensor
    """(B, S) int64 index into G; meaningful for positives only."""
    positives: int
    """Only the first ``positives`` RoIs of each image can be positive."""


class Detections(NamedTuple):
    """The detected objects, padded to D per image."""

    boxes: Tensor
    """(B, D, 4), by falling score; zero on padding."""
    scores: Tensor
    """(B, D); zero on padding."""
    labels: Tensor
    """(B, D) int64; IGNORE on padding."""
    masks: Tensor | None = None
    """(B, D, m, m) probabilities; each mask covers its box."""
    keypoints: Tensor | None = None
    """(B, D, N, 3): x, y, score; zero on padding."""
    semantic: Tensor | None = None
    """(B, classes, H / stride, W / stride) logits of semantic classes, of the whole canvas."""

    def image(self, i: int) -> "Detections":
        """Return the objects of the ``i``-th image without padding: boxes (n, 4), scores (n,), and what else is set."""
        keep, objects = self.labels[i] != IGNORE, self._replace(semantic=None)
        return Detections(*(None if value is None else value[i][keep] for value in objects))  # type: ignore[arg-type]

    def cpu(self) -> "Detections":
        """Return a copy on the CPU, without gradients."""
        return Detections(*(None if value is None else value.detach().cpu() for value in self))  # type: ignore[arg-type]


ResizeMethod = Literal["opencv", "bilinear", "pillow", "tensor"]
"""opencv: bilinear, or the area mean if an image shrinks by more than half.  bilinear: always OpenCV's bilinear
(mmdetection).  pillow: bilinear with a filter as wide as the reduction (detectron2).  tensor: bilinear without rounding
of pixels, sides rounded down (torchvision)."""

Depth = Literal[8, 16]
"""Bits per channel of an image."""


def __getattr__(name: str) -> Any:
    """Return ``Categories``, which is in :mod:`detection.categories` now."""
    if name == "Categories":
        return import_module("detection.categories").Categories
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
