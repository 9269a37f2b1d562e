"""Settings for reading images: limits, channels and depth."""

from dataclasses import dataclass

from detection.coco.limits import MAX_PIXELS
from detection.structures import Depth


@dataclass(frozen=True)
class Reading:
    """Which image files the loader opens, and what it does about unreadable ones."""

    max_pixels: int = MAX_PIXELS
    """The loader rejects images whose header states more pixels, before it decodes them."""
    allow_outside_root: bool = False
    """Follow file names that lead out of the image folder."""
    bad_images: int = 0
    """Number of training images that may be unreadable. The next image takes its place; one more is an error."""
    channels: int = 3
    """Channels of an image; follows model.backbone.in_channels. One is gray, three are RGB; any other number must be
    the number of channels in the files (PNG, .npy, TIFF)."""
    depth: Depth = 8
    """Bits per channel that the model sees, 8 or 16."""
