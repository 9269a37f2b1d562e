"""Limits of what an annotation file may say."""

FARTHEST = 1_000_000.0
"""Coordinates in pixels beyond it are refused: pycocotools walks along every outline, and crashes on 1e8."""

LONGEST = 20_000_000.0
"""Pixels that pycocotools may walk along one outline. It takes 40 bytes for each."""

MAX_PIXELS = 178_956_970
"""Images that claim more are refused before they are decoded (Pillow's limit, too)."""

MIN_SIDE = 0.1
"""Objects whose box, cut at the image, has a shorter side (in pixels) are dropped: nothing could find them."""
