"""Masks inside a window of their image: of a whole mask, the smallest window around it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from detection.coco.bitmaps import bitmap_bounds
from detection.coco.rle import run_lengths


class Patch(NamedTuple):
    """A mask inside a window of whole pixels of its image."""

    top: int
    left: int
    pixels: np.ndarray
    """(h, w) bool."""

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the patch covers."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return the part of the mask in a window of the image: (height, width) bool."""
        shown = np.zeros((height, width), dtype=bool)
        rows, columns = self.place
        rows = slice(max(rows.start, top), min(rows.stop, top + height))
        columns = slice(max(columns.start, left), min(columns.stop, left + width))
        if rows.start < rows.stop and columns.start < columns.stop:
            there = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
            own = (
                slice(rows.start - self.top, rows.stop - self.top),
                slice(columns.start - self.left, columns.stop - self.left),
            )
            shown[there] = self.pixels[own]
        return shown


def rle_to_patch(rle: Mapping[str, Any]) -> Patch:
    """Decode only the non-empty part of a COCO RLE: memory and time depend on the mask, not on the image size.

    Raises:
        ValueError: the runs do not add up to the image, as in :func:`run_lengths`.
    """
    ends, height = run_lengths(rle).cumsum(), int(rle["size"][0])
    starts, stops = ends[0 : len(ends) - 1 : 2], ends[1::2]  # of the runs of ones
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        return Patch(0, 0, np.zeros((0, 0), dtype=bool))
    columns, rows, last = starts // height, starts % height, (stops - 1) % height
    left, right = int(columns[0]), int((stops[-1] - 1) // height)
    over_columns = ((stops - 1) // height > columns).any()
    top, bottom = (0, height - 1) if over_columns else (int(rows.min()), int(last.max()))
    first = (columns - left) * (bottom - top + 1) + rows - top
    bounds = np.stack([first, first + stops - starts], axis=1).ravel()
    bounds = np.concatenate([[0], bounds, [(right - left + 1) * (bottom - top + 1)]])
    ones = np.repeat(np.arange(len(bounds) - 1) % 2 == 1, np.diff(bounds))
    return Patch(top, left, ones.reshape(right - left + 1, -1).T)


def bitmap_to_patch(mask: np.ndarray) -> Patch:
    """Crop an (H, W) bool mask to its non-empty pixels."""
    left, top, right, bottom = bitmap_bounds(mask) or (0, 0, 0, 0)
    return Patch(top, left, mask[top:bottom, left:right])


def patch_to_rle(patch: Patch, height: int, width: int) -> dict[str, object]:
    """Return the RLE of a mask in an image of that size, without drawing the image."""
    rows, columns = patch.pixels.shape
    padded = np.zeros((columns, rows + 2), dtype=bool)
    padded[:, 1:-1] = patch.pixels.T
    # Each run's begin and end in turn, down the columns.
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] ^ padded[:, :-1]), rows + 1)
    ends = (patch.left + column) * height + patch.top + row
    counts = np.diff(ends, prepend=0, append=height * width).tolist()
    found: dict[str, object] = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return found
