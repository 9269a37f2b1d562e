"""Decode and check COCO's run-length encoding (RLE) of masks. :mod:`detection.fast.pasting` encodes predicted masks.

Boxes: XYXY, continuous pixels. Pixel (0, 0) covers [0, 1) x [0, 1); its centre is (0.5, 0.5).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_CHUNK_OF_COUNTS = 1024


def rle_to_bitmap(rle: Mapping[str, Any], box: np.ndarray, size: int = 112) -> np.ndarray:
    """Sample a COCO RLE at the cell centres of a box; decode only the columns of the box.

    Args:
        rle: ``size`` (height, width) and ``counts``: compressed (str, bytes) or a list of runs.
        box: (4,) XYXY; the mask is 0 outside the image.
        size: number of cells per side.

    Returns:
        (size, size) uint8 of 0 and 1.

    Raises:
        ValueError: the runs do not add up to the image, as in :func:`run_lengths`.
    """
    ends = run_lengths(rle).cumsum()
    height, width = (int(side) for side in rle["size"])
    if not height * width:
        return np.zeros((size, size), dtype=np.uint8)
    x0, y0, x1, y1 = (float(value) for value in box)
    centres = (np.arange(size) + 0.5) / size
    columns, rows = np.floor(x0 + centres * (x1 - x0)), np.floor(y0 + centres * (y1 - y0))
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    columns, rows = (v.clip(0, side - 1).astype(np.int64) for v, side in ((columns, width), (rows, height)))
    # COCO counts runs down the columns; runs of ones have odd indices.
    first, last = int(columns[0]), int(columns[-1])
    ends = np.concatenate([[first * height], ends.clip(first * height, (last + 1) * height)])
    ones = np.repeat((np.arange(len(ends) - 1) & 1).astype(np.uint8), np.diff(ends)).reshape(-1, height)
    return ones[columns - first][:, rows].T * inside


def run_lengths(rle: Mapping[str, Any]) -> np.ndarray:
    """Return the run lengths of a COCO RLE, alternately of zeros and ones, down the columns.

    Returns:
        (r,) int64; their sum is the number of pixels of the image.

    Raises:
        ValueError: ``counts`` is incomplete, has negative runs, or does not match ``size``. (pycocotools returns
            uninitialised memory for such an RLE.)
    """
    counts, (height, width) = rle["counts"], rle["size"]
    if isinstance(counts, str):
        counts = counts.encode()
    runs = _decompress(counts) if isinstance(counts, bytes) else np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1:
        raise ValueError("RLE counts must be text or a list of integers")
    # No run may be longer than the image: otherwise the sum of huge runs could overflow to the right number.
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"the runs of the RLE sum to {runs.sum()}, but its size is {height} x {width}")
    return runs


def _decompress(counts: bytes) -> np.ndarray:
    """Decompress COCO's counts to run lengths; check only the characters and the end."""
    code = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if code.size == 0 or code.min() < 0 or code.max() > 63 or code[-1] & 32:
        raise ValueError("RLE counts are empty or incomplete, or contain invalid characters")
    last = np.flatnonzero(code & 32 == 0)
    size = np.concatenate([last[:1] + 1, last[1:] - last[:-1]])
    if size.max() > 12:
        raise ValueError("RLE counts contain a run of more than 60 bits")
    begin = last - size + 1
    shift = 5 * (np.arange(code.size) - np.repeat(begin, size))
    value = np.add.reduceat((code & 31) << shift, begin)
    value -= (code[last] & 16 != 0) * (np.int64(1) << 5 * size)
    value[1::2] = value[1::2].cumsum()
    value[2::2] = value[2::2].cumsum()
    return value


def mask_areas(rles: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the areas of COCO RLEs in pixels, (n,). pycocotools fails on more than 255 at a time."""
    parts = [coco_mask.area(list(rles[start : start + 255])) for start in range(0, len(rles), 255)]
    return np.concatenate([np.zeros(0, dtype=np.uint32), *parts])


def sound_counts(counts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    """Return which compressed counts :func:`run_lengths` would accept; 20 times faster, because it checks many at once.

    Args:
        counts: COCO's compressed counts.
        pixels: (n,) int64 number of pixels of each image.

    Returns:
        (n,) bool.
    """
    sound = np.zeros(len(counts), dtype=bool)
    for start in range(0, len(counts), _CHUNK_OF_COUNTS):
        part = slice(start, start + _CHUNK_OF_COUNTS)
        sound[part] = _sound_chunk([c.encode() for c in counts[part]], pixels[part])
    return sound


def _sound_chunk(counts: list[bytes], pixels: np.ndarray) -> np.ndarray:
    length = np.array([len(c) for c in counts])
    code = np.frombuffer(b"".join(counts), dtype=np.uint8) - np.uint8(
        48
    )  # a character below 48 wraps around to a large number
    more = (code & 32).astype(bool)
    ends = length.cumsum()
    bad = length == 0
    bad[~bad] = more[ends[~bad] - 1]
    if (code > 63).any():
        owner = np.repeat(np.arange(len(counts)), length)
        bad |= np.bincount(owner, code > 63, minlength=len(counts)) > 0
    if bad.any():  # remove broken masks, which would corrupt their neighbours
        good = np.repeat(~bad, length)
        code, more = code[good], more[good]
        length = np.where(bad, 0, length)
        ends = length.cumsum()
    if not code.size:
        return ~bad
    last = np.flatnonzero(~more)  # last character of each run
    size = np.diff(last, prepend=-1)
    before = np.concatenate([[0], np.searchsorted(last, ends)])  # number of runs before each mask, and in total
    number = np.diff(before)
    whole = number > 0
    starts = before[:-1][whole]
    bad[whole] |= np.maximum.reduceat(size, starts) > 12
    value = _values(code, last, np.minimum(size, 12))
    # Each mask has two cumulative sums: over its odd runs, and over its even runs without the first.
    index = np.arange(len(value)) - np.repeat(starts, number[whole])
    runs = value.copy()
    for odd in (0, 1):
        chain = np.flatnonzero((index & 1 == odd) & (index > 0))
        sums = value[chain].cumsum()
        first = np.flatnonzero(index[chain] == 2 - odd)
        earlier = np.where(first > 0, sums[first - 1], 0)
        runs[chain] = sums - np.repeat(earlier, np.diff(np.append(first, len(chain))))
    limit = np.repeat(pixels, number)
    total = np.zeros(len(counts), dtype=np.int64)
    outside = (runs < 0) | (runs > limit)
    bad[whole] |= np.logical_or.reduceat(outside, starts)
    total[whole] = np.add.reduceat(np.where(outside, 0, runs), starts)
    return ~bad & (total == pixels)


def _values(code: np.ndarray, last: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Decode signed integers from five-bit digits; ``last`` has the position of each last digit. Return (n,) int64."""
    begin = last - size + 1
    value = (code[begin] & 31).astype(np.int64)
    longer = np.flatnonzero(size > 1)  # few
    for digit in range(1, int(size.max())):
        longer = longer[size[longer] > digit]
        value[longer] |= (code[begin[longer] + digit] & 31).astype(np.int64) << 5 * digit
    return value - ((code[last] & 16 != 0) * (np.int64(1) << 5 * size))
