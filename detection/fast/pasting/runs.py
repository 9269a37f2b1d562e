"""Find where pasted masks change between 0 and 1 along the columns of an image, in NumPy for many masks at once."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

_CHUNK = 32
"""Detections to process at a time, which limits the memory: about 30 floats per pixel column of each mask."""


def encode(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float) -> list[str]:
    """Return COCO's compressed counts of masks.

    Args:
        masks: (n, m, m) float32, finite.
        boxes: (n, 4) float64.
        height, width: size of the image in pixels.
        threshold: smallest value of the object.
    """
    counts = []
    for toggles, number in _toggles(masks, boxes, height, width, threshold):
        counts += _compress(toggles, number, height * width)
    return counts


def draw(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float) -> np.ndarray:
    """Return masks (n, width, height) bool; arguments as for :func:`encode`."""
    frames = np.zeros((len(boxes), width, height), dtype=bool)  # the system provides pages only where masks are
    flat, start = frames.reshape(-1), 0
    for toggles, number in _toggles(masks, boxes, height, width, threshold):
        shift = start * height * width - toggles[::2] // (height * width + 1)
        for first, end in zip((toggles[::2] + shift).tolist(), (toggles[1::2] + shift).tolist(), strict=True):
            flat[first:end] = True
        start += number
    return frames


def _toggles(
    masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the sorted positions where pasted masks change, and the number of masks.

    Positions of mask i have an offset of i * (height * width + 1). The end of the image closes a run.
    """
    for start in range(0, len(boxes), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield _chunk_toggles(masks[part], boxes[part], height, width, threshold), len(boxes[part])


def _chunk_toggles(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float) -> np.ndarray:
    """Return the positions of :func:`_toggles` for one chunk of masks."""
    n, m, _ = masks.shape
    with np.errstate(invalid="ignore", over="ignore"):
        extent = boxes[:, 2:] - boxes[:, :2]
    valid = (np.isfinite(extent) & (extent > 0)).all(axis=1)  # a finite extent has finite corners
    boxes = np.where(valid[:, None], boxes, [0.0, 0.0, 1.0, 1.0])
    corner, cell = boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]) / m

    # A mask can extend 0.5 - threshold cells beyond its box, where its values fall to zero.
    reach = max(0.0, 0.5 - threshold) * cell[:, 0]
    first = np.floor(boxes[:, 0] - reach).clip(0, width).astype(np.int64)
    last = np.ceil(boxes[:, 2] + reach).clip(0, width).astype(np.int64)
    spans = np.where(valid, last - first, 0)
    owner = np.repeat(np.arange(n), spans)  # mask of each pixel column
    column = np.arange(spans.sum()) - np.repeat(spans.cumsum() - spans, spans) + first[owner]

    # Values of each pixel column of each mask at the m rows of cells, with a zero at both ends.
    place = ((column + 0.5 - corner[owner, 0]) / cell[owner, 0] - 0.5).clip(-1, m)
    low = np.floor(place).clip(-1, m - 1)
    right = (place - low).astype(np.float32)[:, None]
    padded = np.pad(masks.transpose(0, 2, 1), ((0, 0), (1, 1), (1, 1))).reshape(-1, m + 2)
    source = owner * (m + 2) + low.astype(np.int64) + 1
    profile = padded[source] * (1 - right) + padded[source + 1] * right  # (columns, m + 2)

    above = profile >= threshold
    line, knot = np.nonzero(above[:, 1:] != above[:, :-1])  # in the order of the columns
    before, after = profile[line, knot].astype(np.float64), profile[line, knot + 1].astype(np.float64)
    crossing = knot - 0.5 + (threshold - before) / (after - before)  # in cells below the top of the box
    row = corner[owner[line], 1] + crossing * cell[owner[line], 1] - 0.5
    # A rising edge begins at the first pixel at or after the crossing, a falling edge at the first one after it.
    row = np.where(after > before, np.ceil(row), np.floor(row) + 1).clip(0, height).astype(np.int64)
    position = owner[line] * (height * width + 1) + column[line] * height + row
    position = np.maximum.accumulate(position)  # whatever was rounded in boxes of no size to speak of

    # Two changes at one place cancel: a run shorter than a pixel, or one that goes on in the next column.
    new = np.flatnonzero(np.diff(position, prepend=-1))
    odd = np.diff(new, append=len(position)) % 2 == 1
    return position[new[odd]]


def _compress(toggles: np.ndarray, number: int, pixels: int) -> list[str]:
    """Return COCO's compressed counts of ``number`` masks, from the positions of :func:`_toggles`."""
    bounds = np.searchsorted(toggles, np.arange(number + 1) * (pixels + 1))
    runs_of = np.diff(bounds) + 1
    open_end = np.ones(number, dtype=bool)  # whether zeros follow the last run of ones
    filled = runs_of > 1
    open_end[filled] = toggles[bounds[1:][filled] - 1] % (pixels + 1) != pixels
    runs_of -= ~open_end

    owner = np.repeat(np.arange(number), runs_of)
    begin = np.repeat(runs_of.cumsum() - runs_of, runs_of)
    index = np.arange(len(owner)) - begin  # index of the run in its mask
    ends = np.full(len(owner), pixels)
    inner = index < np.diff(bounds)[owner]
    ends[inner] = toggles[bounds[:-1][owner[inner]] + index[inner]] - owner[inner] * (pixels + 1)
    runs = np.where(index == 0, ends, np.diff(ends, prepend=0))

    # From the fourth run on, COCO stores the difference to the run before the last one.
    value = runs.copy()
    value[2:] -= np.where(index[2:] > 2, runs[:-2], 0)
    # A signed number takes five bits per character, lowest first. Bit 5 means that more follow. Code 0 is "0".
    limits = np.left_shift(1, np.arange(4, 64, 5))
    size = 1 + np.searchsorted(limits, np.where(value < 0, ~value, value), side="right")
    place = np.arange(size.max(initial=1))
    characters = ((value[:, None] >> 5 * place) & 31) | ((place < size[:, None] - 1) << 5)
    text = (characters + 48).astype(np.uint8)[place < size[:, None]].tobytes().decode()
    stops = np.concatenate([[0], size.cumsum()])[np.concatenate([[0], runs_of.cumsum()])].tolist()
    return [text[start:stop] for start, stop in pairwise(stops)]
