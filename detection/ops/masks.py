"""Masks: RLE to bitmaps, bitmaps to RoIs, and predicted masks to COCO RLE.

B images   G ground truths (padded)   S RoIs   n detections   M bitmap side   m side of a predicted mask
A bitmap lives in the frame of its box: cell (i, j) of M x M is the centre of the (i, j)-th part of the box.
Boxes: XYXY, continuous pixels; pixel (0, 0) covers [0, 1) x [0, 1) and is sampled at (0.5, 0.5).

No function here builds a full frame, except :func:`paste_masks`, which is for pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from backbones import kernels

UNKNOWN = 255
"""Fills the bitmap of an object whose mask is not known."""

_CHUNK_OF_COUNTS = 1024
_CHUNK = 32
"""Detections encoded at a time: bounds the memory at about 30 floats per pixel column of each of them."""


def rle_to_bitmap(rle: Mapping[str, Any], box: np.ndarray, size: int = 112) -> np.ndarray:
    """Sample a COCO RLE at the cell centres of a box, decoding the columns of the box only.

    Args:
        rle: ``size`` (height, width) and ``counts``: compressed (str, bytes) or a list of runs.
        box: (4,); what lies outside the image is 0.

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
    # COCO runs go down the columns; runs of ones have odd numbers.
    first, last = int(columns[0]), int(columns[-1])
    ends = np.concatenate([[first * height], ends.clip(first * height, (last + 1) * height)])
    ones = np.repeat((np.arange(len(ends) - 1) & 1).astype(np.uint8), np.diff(ends)).reshape(-1, height)
    return ones[columns - first][:, rows].T * inside


def run_lengths(rle: Mapping[str, Any]) -> np.ndarray:
    """The runs of a COCO RLE, of zeros and ones in turn, down the columns.

    Returns:
        (r,) int64; they add up to the pixels of the image.

    Raises:
        ValueError: ``counts`` is cut off, has negative runs, or does not fit ``size``. (pycocotools returns
            uninitialised memory for such an RLE.)
    """
    counts, (height, width) = rle["counts"], rle["size"]
    if isinstance(counts, str):
        counts = counts.encode()
    runs = _decompress(counts) if isinstance(counts, bytes) else np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1:
        raise ValueError("RLE counts must be text or a list of whole numbers")
    # No run may be longer than the image: otherwise the sum of absurd ones could wrap round to the right one.
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"RLE has runs of {runs.sum()} pixels in all, but its size is {height} x {width}")
    return runs


def crop_masks(masks: Tensor, boxes: Tensor, matched: Tensor, rois: Tensor, size: int = 28) -> Tensor:
    """Mask targets: what each RoI sees of its matched object (Mask R-CNN, section 3, "mask representation").

    Bilinear samples at the centres of the RoI's cells, 1 from 0.5 on; 0 where the RoI leaves the object's box.

    Args:
        masks: (B, G, M, M) uint8 bitmaps in the frames of ``boxes``, M >= 2; UNKNOWN where none is known.
        boxes: (B, G, 4).
        matched: (B, S) int64 index into G.
        rois: (B, S, 4) in the same pixels as ``boxes``.

    Returns:
        (B, S, size, size) float32: 0, 1, or -1 everywhere if the object's mask is unknown.
    """
    B, G, M, _ = masks.shape
    frames = boxes.gather(1, matched[..., None].expand(-1, -1, 4)).float()
    centres = (torch.arange(size, device=rois.device) + 0.5) / size
    rois = rois.float()
    points = rois[..., :2, None] + centres * (rois[..., 2:] - rois[..., :2])[..., None]  # (B, S, 2, size): x, y
    cell = (frames[..., 2:] - frames[..., :2]).clamp(min=1e-6) / M
    points = (points - frames[..., :2, None]) / cell[..., None]  # in cells of the bitmap
    inside = (points >= 0) & (points <= M)
    points = (points - 0.5).clamp(0, M - 1)
    low = points.long().clamp(0, M - 2)
    fraction = points - low

    x, y = low[..., 0, None, :], low[..., 1, :, None]
    along_x, along_y = fraction[..., 0, None, :], fraction[..., 1, :, None]
    flat = masks.reshape(-1)
    base = (torch.arange(B, device=masks.device)[:, None] * G + matched)[..., None, None] * (M * M)
    index = base + y * M + x  # (B, S, size, size)
    upper = torch.lerp(flat[index].float(), flat[index + 1].float(), along_x)
    index = index + M
    lower = torch.lerp(flat[index].float(), flat[index + 1].float(), along_x)
    target = (torch.lerp(upper, lower, along_y) >= 0.5) & inside[..., 0, None, :] & inside[..., 1, :, None]
    return torch.where(flat[base] == UNKNOWN, -1.0, target.float())


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[dict[str, Any]]:
    """Predicted masks as COCO RLE, as if each were pasted into the image and encoded.

    Pasting is detectron2's: bilinear interpolation at the pixel centres, zero beyond the mask, 1 where the value
    reaches the threshold. Down a pixel column the interpolation is piecewise linear, so the ends of its runs follow
    from where it crosses the threshold; no pixel is ever drawn, and the cost does not grow with the height.

    Args:
        masks: (n, m, m) probabilities; NaN counts as 0.
        boxes: (n, 4) in pixels of the file; may leave the image. A box that is not finite or has no size is empty.
        threshold: above 0.

    Returns:
        n dicts of ``size`` [height, width] and ``counts`` (compressed, str, ready for json).
    """
    counts = []
    for toggles, number in _toggles(masks, boxes, height, width, threshold):
        counts += _compress(toggles, number, height * width)
    return [{"size": [height, width], "counts": string} for string in counts]


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> Tensor:
    """Predicted masks as full frames, pixel for pixel what :func:`encode_masks` encodes.

    Returns:
        (n, height, width) bool on the device of the masks; on a CPU column by column in memory. For pictures, as it
        needs n full frames.
    """
    if kernels.usable(masks):
        from detection.ops.kernels import paste

        return paste.paste(masks.detach().float(), boxes.detach(), height, width, _above_zero(threshold))
    frames = np.zeros((len(boxes), width * height), dtype=bool)  # memory is touched where masks are, not elsewhere
    start = 0
    for toggles, number in _toggles(masks, boxes, height, width, threshold):
        owner = toggles[::2] // (height * width + 1)
        shift = start * height * width - owner
        flat = frames.reshape(-1)
        for first, end in zip((toggles[::2] + shift).tolist(), (toggles[1::2] + shift).tolist(), strict=True):
            flat[first:end] = True
        start += number
    return torch.from_numpy(frames.reshape(-1, width, height)).transpose(1, 2).to(masks.device)


def rounded_frames(boxes: Tensor, side: int) -> Tensor:
    """Where torchvision pastes a mask instead of into its box.

    It surrounds the mask with a rim of one empty cell, widens the box by as much, cuts its corners to whole pixels
    towards zero, and counts the last one in.

    Args:
        boxes: (n, 4) in pixels of the file.
        side: m, of the mask without its rim.

    Returns:
        (n, 4) float64: the frame of the mask without its rim, for :func:`encode_masks` or :func:`paste_masks`.
    """
    low, high = boxes.double().unflatten(-1, (2, 2)).unbind(-2)
    centre, half = (low + high) / 2, (high - low) / 2 * (side + 2) / side
    first, last = (centre - half).trunc(), (centre + half).trunc()
    cell = (last - first + 1).clamp(min=1) / (side + 2)
    return torch.cat([first + cell, first + (side + 1) * cell], dim=-1)


def _toggles(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> Iterator[tuple[np.ndarray, int]]:
    """Where pasted masks change between 0 and 1 down the columns: sorted positions, and the number of masks.

    Positions of mask i are offset by i * (height * width + 1); the last one, the end of the image, closes a run.
    """
    threshold = _above_zero(threshold)
    probabilities = np.nan_to_num(masks.detach().float().cpu().numpy())
    corners = boxes.detach().double().cpu().numpy()
    for start in range(0, len(corners), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield _chunk_toggles(probabilities[part], corners[part], height, width, threshold), len(corners[part])


def _above_zero(threshold: float) -> float:
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}, but must be above 0: everything outside the box has 0")
    return threshold


def _chunk_toggles(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float) -> np.ndarray:
    """:func:`_toggles` of a few masks at once."""
    n, m, _ = masks.shape
    with np.errstate(invalid="ignore", over="ignore"):
        extent = boxes[:, 2:] - boxes[:, :2]
    valid = (np.isfinite(extent) & (extent > 0)).all(axis=1)  # a finite extent has finite corners
    boxes = np.where(valid[:, None], boxes, [0.0, 0.0, 1.0, 1.0])
    corner, cell = boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]) / m

    # A mask can reach 0.5 - threshold cells over its box, where it fades to zero.
    reach = max(0.0, 0.5 - threshold) * cell[:, 0]
    first = np.floor(boxes[:, 0] - reach).clip(0, width).astype(np.int64)
    last = np.ceil(boxes[:, 2] + reach).clip(0, width).astype(np.int64)
    spans = np.where(valid, last - first, 0)
    owner = np.repeat(np.arange(n), spans)  # of each pixel column
    column = np.arange(spans.sum()) - np.repeat(spans.cumsum() - spans, spans) + first[owner]

    # Each pixel column of each mask: its values at the m rows of cells, and zeros around.
    place = ((column + 0.5 - corner[owner, 0]) / cell[owner, 0] - 0.5).clip(-1, m)
    low = np.floor(place).clip(-1, m - 1)
    right = (place - low).astype(np.float32)[:, None]
    padded = np.pad(masks.transpose(0, 2, 1), ((0, 0), (1, 1), (1, 1))).reshape(-1, m + 2)
    source = owner * (m + 2) + low.astype(np.int64) + 1
    profile = padded[source] * (1 - right) + padded[source + 1] * right  # (columns, m + 2)

    above = profile >= threshold
    line, knot = np.nonzero(above[:, 1:] != above[:, :-1])  # ordered down the columns
    before, after = profile[line, knot].astype(np.float64), profile[line, knot + 1].astype(np.float64)
    crossing = knot - 0.5 + (threshold - before) / (after - before)  # in cells below the top of the box
    row = corner[owner[line], 1] + crossing * cell[owner[line], 1] - 0.5
    # Rising: the first pixel at or past the crossing; falling: the first one past it.
    row = np.where(after > before, np.ceil(row), np.floor(row) + 1).clip(0, height).astype(np.int64)
    position = owner[line] * (height * width + 1) + column[line] * height + row

    # Two changes at one place cancel: a run shorter than a pixel, or one that goes on in the next column.
    new = np.flatnonzero(np.diff(position, prepend=-1))
    odd = np.diff(new, append=len(position)) % 2 == 1
    return position[new[odd]]


def _compress(toggles: np.ndarray, number: int, pixels: int) -> list[str]:
    """COCO's compressed counts of ``number`` masks from the positions of :func:`_toggles`."""
    bounds = np.searchsorted(toggles, np.arange(number + 1) * (pixels + 1))
    runs_of = np.diff(bounds) + 1
    open_end = np.ones(number, dtype=bool)  # whether zeros follow the last one
    filled = runs_of > 1
    open_end[filled] = toggles[bounds[1:][filled] - 1] % (pixels + 1) != pixels
    runs_of -= ~open_end

    owner = np.repeat(np.arange(number), runs_of)
    begin = np.repeat(runs_of.cumsum() - runs_of, runs_of)
    index = np.arange(len(owner)) - begin  # of the run in its mask
    ends = np.full(len(owner), pixels)
    inner = index < np.diff(bounds)[owner]
    ends[inner] = toggles[bounds[:-1][owner[inner]] + index[inner]] - owner[inner] * (pixels + 1)
    runs = np.where(index == 0, ends, np.diff(ends, prepend=0))

    # From the fourth run on, the difference to the run before last is stored.
    value = runs.copy()
    value[2:] -= np.where(index[2:] > 2, runs[:-2], 0)
    # Signed, five bits per character, the lowest first; bit 5: more follow; from character "0" on.
    limits = np.left_shift(1, np.arange(4, 64, 5))
    size = 1 + np.searchsorted(limits, np.where(value < 0, ~value, value), side="right")
    place = np.arange(size.max(initial=1))
    characters = ((value[:, None] >> 5 * place) & 31) | ((place < size[:, None] - 1) << 5)
    text = (characters + 48).astype(np.uint8)[place < size[:, None]].tobytes().decode()
    stops = np.concatenate([[0], size.cumsum()])[np.concatenate([[0], runs_of.cumsum()])].tolist()
    return [text[start:stop] for start, stop in pairwise(stops)]


def _decompress(counts: bytes) -> np.ndarray:
    """The runs in COCO's compressed counts, unchecked but for its end."""
    code = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if code.size == 0 or code.min() < 0 or code.max() > 63 or code[-1] & 32:
        raise ValueError("RLE counts are empty, cut off, or hold characters that are none of COCO's")
    last = np.flatnonzero(code & 32 == 0)
    size = np.concatenate([last[:1] + 1, last[1:] - last[:-1]])
    if size.max() > 12:
        raise ValueError("RLE counts hold a run of more than 60 bits")
    begin = last - size + 1
    shift = 5 * (np.arange(code.size) - np.repeat(begin, size))
    value = np.add.reduceat((code & 31) << shift, begin)
    value -= (code[last] & 16 != 0) * (np.int64(1) << 5 * size)
    value[1::2] = value[1::2].cumsum()
    value[2::2] = value[2::2].cumsum()
    return value


def mask_areas(rles: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(n,) pixels of COCO RLEs; pycocotools fails on more than 255 at once."""
    parts = [coco_mask.area(list(rles[start : start + 255])) for start in range(0, len(rles), 255)]
    return np.concatenate([np.zeros(0, dtype=np.uint32), *parts])


def sound_counts(counts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    """Which compressed counts :func:`run_lengths` would accept; of many at once, which is 20 times faster.

    Args:
        counts: COCO's compressed counts.
        pixels: (n,) int64 of the images.

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
    code = np.frombuffer(b"".join(counts), dtype=np.uint8) - np.uint8(48)  # below 48 becomes large
    more = (code & 32).astype(bool)
    ends = length.cumsum()
    bad = length == 0
    bad[~bad] = more[ends[~bad] - 1]
    if (code > 63).any():
        owner = np.repeat(np.arange(len(counts)), length)
        bad |= np.bincount(owner, code > 63, minlength=len(counts)) > 0
    if bad.any():  # what is broken would spoil its neighbours
        good = np.repeat(~bad, length)
        code, more = code[good], more[good]
        length = np.where(bad, 0, length)
        ends = length.cumsum()
    if not code.size:
        return ~bad
    last = np.flatnonzero(~more)  # of each run
    size = np.diff(last, prepend=-1)
    before = np.concatenate([[0], np.searchsorted(last, ends)])  # runs in front of each mask, and of all
    number = np.diff(before)
    whole = number > 0
    starts = before[:-1][whole]
    bad[whole] |= np.maximum.reduceat(size, starts) > 12
    value = _values(code, last, np.minimum(size, 12))
    # Two chains of sums in each mask, of its odd and of its even runs; the first run stands for itself.
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
    """The signed numbers whose last digits, of five bits, stand at ``last``; (n,) int64."""
    begin = last - size + 1
    value = (code[begin] & 31).astype(np.int64)
    longer = np.flatnonzero(size > 1)  # few
    for digit in range(1, int(size.max())):
        longer = longer[size[longer] > digit]
        value[longer] |= (code[begin[longer] + digit] & 31).astype(np.int64) << 5 * digit
    return value - ((code[last] & 16 != 0) * (np.int64(1) << 5 * size))
