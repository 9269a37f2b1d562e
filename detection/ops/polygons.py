"""Draw polygons into bitmaps, for all objects of an image or a batch at once.

n objects   P polygons   E points of all polygons   R crossings of outlines and rows   M bitmap side.
W 64-bit words in a row of a bitmap, one bit per cell, the first cell in the lowest bit.
"""

from collections.abc import Sequence

import numpy as np

_CHUNK = 128
"""Objects to draw at a time, which limits the memory."""
_BIT = np.uint64(1) << np.arange(64, dtype=np.uint64)


def polygons_to_bitmaps(objects: Sequence[Sequence[np.ndarray]], boxes: np.ndarray, size: int = 112) -> np.ndarray:
    """Draw the union of each object's polygons into a bitmap that covers the object's box.

    A cell is set if its centre lies inside a polygon by the even-odd rule. If a polygon is so thin that it contains no
    centre, the function sets the cells on its outline. So no part of an object vanishes.

    Args:
        objects: n lists of polygons, each (k, 2) with k > 0, finite x and y in pixels; may extend beyond the box.
        boxes: (n, 4) XYXY.
        size: M.

    Returns:
        (n, M, M) uint8 of 0 and 1.
    """
    bitmaps = np.zeros((len(objects), size, size), dtype=np.uint8)
    boxes = np.asarray(boxes, dtype=np.float64)
    for start in range(0, len(objects), _CHUNK):
        part = slice(start, start + _CHUNK)
        _draw(objects[part], boxes[part], bitmaps[part])
    return bitmaps


def _draw(objects: Sequence[Sequence[np.ndarray]], boxes: np.ndarray, bitmaps: np.ndarray) -> None:
    size = bitmaps.shape[1]
    polygons = [polygon for parts in objects for polygon in parts]
    if not polygons:
        return
    number = np.array([len(parts) for parts in objects])
    owner = np.repeat(np.arange(len(objects)), number)
    length = np.array([len(polygon) for polygon in polygons])
    scale = size / np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    points = np.concatenate(polygons)
    # One array per axis: NumPy is slow for arrays of pairs.
    x, y = (
        (points[:, axis] - boxes[owner, axis].repeat(length)) * scale[owner, axis].repeat(length) for axis in (0, 1)
    )
    words = _fill(x, y, length, size)
    some = np.flatnonzero(number)
    union = np.bitwise_or.reduceat(words, (number.cumsum() - number)[some], axis=0).astype("<u8", copy=False)
    bitmaps[some] = np.unpackbits(union.view(np.uint8), axis=-1, count=size, bitorder="little")
    ends = length.cumsum()
    for thin in np.flatnonzero(~words.any(axis=(1, 2))).tolist():
        outline = slice(ends[thin] - length[thin], ends[thin])
        bitmaps[owner[thin]] |= _outline(np.stack([x[outline], y[outline]], axis=1), size)


def _fill(x: np.ndarray, y: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
    """Fill polygons by the even-odd rule: each crossing of a row's centre line and an edge inverts the rest of the row.

    Args:
        x, y: (E,) in cells.
        length: (P,) points of each polygon.

    Returns:
        (P, M, W) uint64; unused bits of the last word repeat the last cell.
    """
    ends = length.cumsum()
    following = np.arange(1, len(x) + 1)
    following[ends - 1] = ends - length
    next_x, next_y = x.take(following), y.take(following)
    down = y <= next_y
    upper_x, lower_x = np.where(down, x, next_x), np.where(down, next_x, x)
    upper_y, lower_y = np.where(down, y, next_y), np.where(down, next_y, y)
    first = np.ceil(upper_y - 0.5).clip(0, size).astype(np.int64)
    rows = np.ceil(lower_y - 0.5).clip(0, size).astype(np.int64) - first
    edge = np.arange(len(x)).repeat(rows)  # (R,)
    row = np.arange(len(edge)) + (first + rows - rows.cumsum()).take(edge)
    along = (row + 0.5 - upper_y.take(edge)) * (lower_x - upper_x).take(edge) / (lower_y - upper_y).take(edge)
    column = np.ceil(upper_x.take(edge) + along - 0.5).clip(0, size).astype(np.int64)
    inside = column < size
    line = np.arange(len(length)).repeat(length).take(edge) * size + row
    line, column = line[inside], column[inside]

    per_row = -(-size // 64)
    words = np.zeros((len(length), size, per_row), dtype=np.uint64)
    np.bitwise_xor.at(words.reshape(-1), line * per_row + (column >> 6), _BIT[column & 63])
    for shift in (1, 2, 4, 8, 16, 32):  # each cell becomes the parity of all crossings up to it
        words ^= words << np.uint64(shift)
    for word in range(1, per_row):  # continue with the parity of the previous word
        words[..., word] ^= (words[..., word - 1] >> np.uint64(63)) * np.uint64(2**64 - 1)
    return words


def _outline(points: np.ndarray, size: int) -> np.ndarray:
    """Return a bitmap of the cells on the outline of a polygon (k, 2)."""
    along = np.linspace(0, 1, 2 * size + 1)[:, None, None]
    path = (points + along * (np.roll(points, -1, axis=0) - points)).reshape(-1, 2)
    path = path[((path >= 0) & (path <= size)).all(axis=1)]
    column, row = np.floor(path).clip(max=size - 1).astype(np.int64).T
    bitmap = np.zeros((size, size), dtype=np.uint8)
    bitmap[row, column] = 1
    return bitmap
