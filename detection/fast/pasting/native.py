"""The functions of :mod:`.runs` in C (``pasting.c``), which releases Python's lock."""

import ctypes
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from backbones.fast import compiled

_CHUNK = 32
"""Masks to encode at a time, which limits the memory for text; most of that memory is never touched."""


@cache
def _library() -> ctypes.CDLL | None:
    # No fused multiply-add, as NumPy rounds each product and sum.
    source = Path(__file__).with_name("pasting.c")
    return compiled.library(source, "-ffp-contract=off", functions=("encode", "draw"))


def usable() -> bool:
    """Return whether the C code is available."""
    return _library() is not None


def encode(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float) -> list[str]:
    """Return the same as :func:`.runs.encode`."""
    pixels, counts = height * width, []
    longest = pixels.bit_length() // 5 + 1  # characters of a number, with its sign
    for start in range(0, len(boxes), _CHUNK):
        some = boxes[start : start + _CHUNK]
        text = np.empty(len(some) * (_changes(masks, width) + 1) * longest, dtype=np.uint8)
        ends = np.empty(len(some), dtype=np.int64)
        _call("encode", masks[start : start + _CHUNK], some, height, width, threshold, text, ends)
        written = text[: ends[-1]].tobytes().decode()
        counts += [written[first:end] for first, end in pairwise([0, *ends.tolist()])]
    return counts


def draw(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float) -> np.ndarray:
    """Return the same as :func:`.runs.draw`."""
    frames = np.zeros((len(boxes), width, height), dtype=bool)
    _call("draw", masks, boxes, height, width, threshold, frames)
    return frames


def _changes(masks: np.ndarray, width: int) -> int:
    """Return the largest number of changes in one mask."""
    return width * (masks.shape[1] + 1)


def _call(
    name: str, masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float, *to: np.ndarray
) -> None:
    masks, boxes, m = np.ascontiguousarray(masks), np.ascontiguousarray(boxes), masks.shape[1]
    padded = np.empty((m + 2) ** 2, dtype=np.float32)
    positions = np.empty(_changes(masks, width) + 1, dtype=np.int64)
    given = (masks, boxes, len(boxes), m, height, width, threshold)
    compiled.call(_library(), name, *given, padded, positions, *to)
