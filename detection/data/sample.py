"""What a worker makes of one image, and batches that the device still has to resize."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from detection.structures import Batch


class Unresized(NamedTuple):
    """A batch whose images are as their files have them; all else speaks of the sizes and sides they shall have."""

    batch: Batch
    """Its ``images`` are (B, 3, h, w), on a canvas of their own."""
    stored: Tensor
    """(B, 2) int64: height, width of each as it is."""
    mirrored: Tensor
    """(B,) bool: which shall be mirrored left and right."""
    canvas: Tensor
    """(2,) int64: H, W."""


@dataclass
class Sample:
    """One image in a worker. Ragged, numpy, and never on the device.

    Boxes: XYXY float32 (n, 4) in pixels of ``image``.
    """

    image: np.ndarray
    """(H, W, 3) RGB in 0..255, uint8, or float32 where resizing does not round."""
    image_id: int
    original_size: tuple[int, int]
    """Height, width of the file."""
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    masks: np.ndarray | None = None
    """(n, M, M) uint8 in the frame of each box, as in :class:`Targets`; None for a detector without masks."""
    wanted: tuple[int, int] | None = None
    """Height, width that the image shall have, and in whose pixels the boxes are, if it is not resized yet."""
    mirrored: bool = False
    """The image shall be mirrored left and right, as boxes and masks are, and is not yet."""
