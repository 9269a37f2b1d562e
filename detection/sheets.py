"""Put images with captions on one sheet, as tiles of the same size."""

from collections.abc import Sequence

import cv2
import numpy as np

from detection.text import fit, write

GROUND, PANEL, INK = (28, 32, 40), (44, 49, 59), (226, 230, 238)
"""RGB of the sheet, of the part of a tile around its image, and of the text."""
SIZE = 11
"""Height of a capital letter in captions, in pixels."""
GAP, MARGIN = 4, 14
"""Pixels between the images of a cell, and around a cell."""

Tile = tuple[str, np.ndarray]
"""A caption, and an (H, W, 3) uint8 RGB image."""


def sheet(cells: Sequence[Sequence[Tile]], title: str = "", columns: int = 2, longest: int = 1600) -> np.ndarray:
    """Lay cells out in rows from left to right; the tiles of a cell are side by side.

    Args:
        cells: at least one; all with the same number of tiles.
        title: a line above all cells.
        columns: cells in a row.
        longest: largest width and height of the sheet, in pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    columns, number = min(columns, len(cells)), len(cells[0])
    shape = float(np.median([image.shape[0] / image.shape[1] for cell in cells for _, image in cell]))
    rows, caption, top = -(-len(cells) // columns), 2 * SIZE + 6, (3 * SIZE + MARGIN if title else MARGIN)
    side = (longest - MARGIN - columns * (MARGIN + (number - 1) * GAP)) // (columns * number)
    # Narrower tiles if the rows would be too high together.
    room = ((longest - top) // rows - caption - MARGIN) / shape
    side = max(8, min(side, int(room)))
    height = max(8, round(side * shape))
    step = number * side + (number - 1) * GAP + MARGIN
    found = np.full((top + rows * (caption + height + MARGIN), columns * step + MARGIN, 3), GROUND, dtype=np.uint8)
    if title:
        write(found, fit(title, SIZE + 3, found.shape[1] - 2 * MARGIN), (MARGIN, 2 * SIZE + MARGIN), INK)
    for k, cell in enumerate(cells):
        y = top + k // columns * (caption + height + MARGIN)
        for i, (words, image) in enumerate(cell):
            x = MARGIN + k % columns * step + i * (side + GAP)
            write(found, fit(words, SIZE, side), (x, y + caption - 8), INK)
            found[y + caption : y + caption + height, x : x + side] = _fitted(image, side, height)
    return found


def _fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize an image to fit into a tile, and centre it: (height, width, 3) uint8."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    tile = np.full((height, width, 3), PANEL, dtype=np.uint8)
    y, x = (height - size[1]) // 2, (width - size[0]) // 2
    tile[y : y + size[1], x : x + size[0]] = small
    return tile
