"""Settings for reading images: limits, channels and depth."""

from dataclasses import dataclass

from detection.coco.limits import MAX_PIXELS
from detection.structures import Depth


@dataclass(frozen=True)
class Reading:
    """Limits for reading images, and how many images may be unreadable."""

    max_pixels: int = MAX_PIXELS
    """Largest number of pixels per image. The loader rejects a larger image before it decodes it."""
    allow_outside_root: bool = False
    """Accept file names that point outside the image folder."""
    bad_images: int = 0
    """Number of training images that may be unreadable. The loader replaces each with the next readable image, and one
    more is an error."""
    channels: int = 3
    """Channels per image: 1 is gray, 3 is RGB. For other values the files (PNG, .npy, TIFF) must have exactly this
    number. Follows model.backbone.in_channels."""
    depth: Depth = 8
    """Bits per channel that the model sees, 8 or 16."""
