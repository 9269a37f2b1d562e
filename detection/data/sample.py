"""A sample (one image with its targets), and a batch whose images the device still has to resize."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from detection.structures import Batch


class Unresized(NamedTuple):
    """A batch whose images still have the size of their files; sizes and boxes are already those after resizing."""

    batch: Batch
    """Its ``images`` are (B, C, h, w), padded to the largest image."""
    stored: Tensor
    """(B, 2) int64: current height, width of each image."""
    mirrored: Tensor
    """(B,) bool: images that the device must flip horizontally."""
    canvas: Tensor
    """(2,) int64: H, W of the batch after resizing."""


@dataclass
class Sample:
    """One image with its n objects, as NumPy arrays in a data-loader worker, without padding."""

    image: np.ndarray
    """(H, W, C); RGB if C is 3. uint8, uint16, or float32 from 0 to 255 if resizing does not round."""
    image_id: int
    original_size: tuple[int, int]
    """(height, width) of the file."""
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(n, 4) float32 XYXY in pixels of ``image``, after resizing."""
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    masks: np.ndarray | None = None
    """(n, M, M) uint8 in the frame of each box, as in :class:`Targets`; None for a detector without masks."""
    keypoints: np.ndarray | None = None
    """(n, P, 3) float32, as in :class:`Targets`; None for a detector without keypoints."""
    semantic: np.ndarray | None = None
    """(h, w) uint8 semantic map of the image after resizing; None for a detector without a semantic head."""
    wanted: tuple[int, int] | None = None
    """(height, width) to which the device must still resize the image; None if the image has its final size."""
    mirrored: bool = False
    """The device must still flip the image horizontally; boxes and masks are flipped already."""
