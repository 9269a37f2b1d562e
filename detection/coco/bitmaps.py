"""Masks as arrays of pixels."""

import numpy as np


def bitmap_bounds(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom) of the smallest box of whole pixels around a mask; None if it is empty.

    Args:
        mask: (H, W) bool.

    Example:
        >>> bitmap_bounds(np.array([[False, False, False], [False, True, True]]))
        (1, 1, 3, 2)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
