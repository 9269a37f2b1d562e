"""Limits for the numbers in an annotation file."""

FARTHEST = 1_000_000.0
"""Largest coordinate in pixels. pycocotools visits every pixel of an outline, and crashes at 1e8."""

LONGEST = 20_000_000.0
"""Longest outline in pixels. pycocotools takes 40 bytes for each of its pixels."""

MAX_PIXELS = 178_956_970
"""Largest number of pixels per image. The toolkit rejects a larger image before decoding it, as Pillow does."""

MIN_SIDE = 0.1
"""Shortest side of a box in pixels, after clipping at the image. No detector could find smaller objects."""
