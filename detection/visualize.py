"""Draw detections and ground truth into images.

Images: (H, W, 3) uint8 RGB.  n objects.  Boxes: XYXY in pixels of the image.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.categories import Skeleton
from detection.coco.patches import Patch, bitmap_to_patch, rle_to_patch
from detection.skeletons import draw_keypoints
from detection.text import fit, readable, write

SHORTEST = 640
"""Images whose longer side is shorter are enlarged, because labels would hide the objects."""

ROUNDING = 1.0
"""Standard deviation of the blur that rounds the outline of an enlarged mask, in pixels of the original image."""

SHARPEST = 6
"""Largest factor at which the outline of an enlarged mask is rounded; beyond it, the result is interpolated."""

DARK = 0.4
"""An image is dark if 99 % of its values are below this fraction of white."""

Color = tuple[int, int, int]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Convert an image for display: the first three channels, or the first one in grey if there are fewer.

    Args:
        image: (H, W, C) uint8, uint16 (65535 is white), or float in 0..255.

    Returns:
        (H, W, 3) uint8.
    """
    seen = _three_channels(image)
    if seen.dtype == np.uint16:
        return (seen // 257).astype(np.uint8)
    return seen if seen.dtype == np.uint8 else seen.clip(0, 255).astype(np.uint8)


def stretched(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """Stretch the contrast of a dark image: the darkest 0.5 % become black, the brightest 0.5 % white.

    Args:
        image: as :func:`as_rgb` takes it.

    Returns:
        The image as :func:`as_rgb` returns it, and whether its contrast was stretched.
    """
    seen = _three_channels(image)
    white = 65535 if seen.dtype == np.uint16 else 255
    low, bright, high = np.percentile(seen, (0.5, 99, 99.5))
    if bright >= DARK * white or high <= low:
        return as_rgb(image), False
    scaled = (seen.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8), True


def _three_channels(image: np.ndarray) -> np.ndarray:
    return image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    masks: np.ndarray | Sequence[Mapping[str, Any]] | None,
    names: Sequence[str],
    *,
    with_boxes: bool = True,
    with_names: bool = True,
    with_scores: bool = True,
    colors: Sequence[Color] | None = None,
    tint: float = 0.4,
    label_room: float = 0.0,
    keypoints: np.ndarray | None = None,
    skeletons: Sequence[Skeleton] = (),
) -> np.ndarray:
    """Draw objects into a copy of an image.

    Each class has its colour. If there is only one class, each object has its own colour, and the label has no name.
    Lines and text grow with the image. The labels of the best objects get their places first. A label without a free
    place is not drawn.

    Args:
        image: as :func:`as_rgb` takes it.
        boxes: (n, 4); boxes with NaN or Inf are not drawn.
        labels: (n,) into ``names``; objects with a negative label (padding) are not drawn.
        scores: (n,), or None for ground truth.
        masks: n COCO RLEs of the image's size, or (n, H, W) bool, or None. RLEs need less memory: each is decoded
            alone and in its box.
        with_boxes, with_names, with_scores: draw the boxes, and write the names and the scores on them.
        colors: n RGB colours, instead of those of the classes; outlines of masks are then as strong as boxes.
        tint: weight of the colour inside masks, in 0..1.
        label_room: draw a label only if the area of its box is at least this many times that of the label.
        keypoints: (n, N, 3) x, y in pixels of the image, and visibility or score; or None.
        skeletons: keypoints of each class, by label; without them, no lines join the keypoints.

    Returns:
        (kH, kW, 3) uint8 with a whole k >= 1, above 1 for an image smaller than SHORTEST.

    Raises:
        ValueError: the size of a mask differs from the size of the image.
    """
    enlarge = max(1, -(-SHORTEST // max(image.shape[:2])))
    picture = np.ascontiguousarray(as_rgb(image))
    if enlarge > 1:
        picture = cv2.resize(picture, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    else:
        picture = picture.copy()
    height, width = picture.shape[:2]
    line = max(2, round(max(height, width) / 450))
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * enlarge
    shown = np.flatnonzero(np.isfinite(boxes).all(axis=1) & (np.asarray(labels) >= 0))
    # Best first; of the ground truth, small ones first, so that they come to lie on top.
    rank = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) if scores is None else -np.asarray(scores)
    order = shown[np.argsort(rank[shown], kind="stable")]
    # Lighter than the box, so that neighbours of one class stay apart; given colours have a meaning.
    light = colors is None
    if colors is None:
        own = palette(max(len(names), len(boxes), int(np.max(labels, initial=0)) + 1))
        colors = [own[i if len(names) == 1 else int(labels[i])] for i in range(len(boxes))]
    paint = {i: colors[i] for i in order.tolist()}
    corners = {i: _clipped(boxes[i], height, width) for i in paint}

    for i in reversed(paint):
        if masks is not None:
            _draw_mask(picture, _patch(masks[i], image.shape), paint[i], enlarge, line, tint, light)
    for i in reversed(paint) if with_boxes else ():
        cv2.rectangle(picture, corners[i][:2], corners[i][2:], paint[i], line, cv2.LINE_AA)
    if keypoints is not None:
        for i in reversed(paint):
            skeleton = skeletons[int(labels[i])] if skeletons else Skeleton()
            draw_keypoints(picture, keypoints[i] * [enlarge, enlarge, 1], skeleton, paint[i], line)
    taken: list[tuple[int, int, int, int]] = []
    for i in paint:
        label = int(labels[i])
        words = []
        if with_names and len(names) != 1:
            words.append(readable(names[label], label) if label < len(names) else str(label))
        if with_scores and scores is not None:
            words.append(f"{scores[i]:.2f}")
        if words:
            _draw_label(picture, " ".join(words), corners[i], paint[i], line, taken, label_room)
    return picture


def tinted(image: np.ndarray, labels: np.ndarray, tint: float = 0.5) -> np.ndarray:
    """Mix each pixel with the colour of its class.

    Args:
        image: as :func:`as_rgb` takes it.
        labels: (H, W) uint8; pixels with 255 keep their colour.
        tint: weight of the colour of the class, in 0..1.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the map has another size than the image.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"a map of {labels.shape} pixels does not fit an image of {tuple(image.shape[:2])}")
    picture = as_rgb(image)
    mixed = cv2.addWeighted(picture, 1 - tint, np.array(palette(256), dtype=np.uint8)[labels], tint, 0)
    return np.where((labels == 255)[..., None], picture, mixed)


def side_by_side(
    truth: np.ndarray, prediction: np.ndarray, captions: tuple[str, str] = ("ground truth", "prediction")
) -> np.ndarray:
    """Put two images in a row, each under its caption; the smaller one is padded to the height of the other."""
    height = max(truth.shape[0], prediction.shape[0])
    size = max(14, round(max(height, truth.shape[1], prediction.shape[1]) / 45))
    panels = []
    for picture, caption in ((truth, captions[0]), (prediction, captions[1])):
        panel = np.full((height + 2 * size, picture.shape[1], 3), 255, dtype=np.uint8)
        panel[2 * size : 2 * size + picture.shape[0]] = picture
        text = fit(caption, size, panel.shape[1] - size)
        write(panel, text, ((panel.shape[1] - text.width) // 2, round(1.5 * size)), (30, 30, 30))
        panels += [panel, np.full((len(panel), max(2, size // 3), 3), 255, dtype=np.uint8)]
    return np.concatenate(panels[:-1], axis=1)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an image in the format that the ending of the file names.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 or uint16.

    Raises:
        ValueError: OpenCV writes no format with this ending.
        OSError: the file cannot be written.
    """
    if image.ndim == 3:
        image = image[..., ::-1]
    # Not imwrite: it returns False instead of an error, and fails on some names.
    try:
        good, data = cv2.imencode(path.suffix, image)
    except cv2.error:
        good = False
    if not good:
        raise ValueError(f"{path}: {path.suffix or 'no ending'} is no image format; use .jpg or .png")
    path.write_bytes(data.tobytes())


def palette(n: int) -> list[Color]:
    """Return ``n`` RGB colours, each as different as possible from those before it, neither pale nor dark.

    The k-th is the same for every ``n``, so that a class keeps its colour. After the first 256 they repeat.

    Example:
        >>> palette(2)
        [(78, 235, 196), (177, 0, 255)]
    """
    colors = _colors()
    return [colors[i % len(colors)] for i in range(n)]


@cache
def _colors(number: int = 256) -> list[Color]:
    """Farthest points first, in CIE Lab, where distances match what people see."""
    levels = np.linspace(0, 1, 14, dtype=np.float32)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0]
    vivid = (lab[:, 0] > 45) & (lab[:, 0] < 88) & (np.hypot(lab[:, 1], lab[:, 2]) > 45)
    rgb, lab = rgb[0, vivid], lab[vivid]
    # From this teal on, the first five colours differ from those of the synthetic shapes, so that masks stand out.
    start = np.array([85, -50, 7], dtype=np.float32)
    chosen = [int(np.linalg.norm(lab - start, axis=1).argmin())]
    distance = np.linalg.norm(lab - lab[chosen[0]], axis=1)
    while len(chosen) < number:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
    return [(int(r), int(g), int(b)) for r, g, b in np.rint(rgb[chosen] * 255)]


def _clipped(box: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    x0, x1 = (int(v) for v in np.rint(box[0::2]).clip(0, width - 1))
    y0, y1 = (int(v) for v in np.rint(box[1::2]).clip(0, height - 1))
    return x0, y0, x1, y1


def _patch(mask: np.ndarray | Mapping[str, Any], shape: Sequence[int]) -> Patch:
    size = mask["size"] if isinstance(mask, Mapping) else mask.shape
    if tuple(size) != tuple(shape[:2]):
        raise ValueError(f"a mask of {tuple(size)} pixels does not fit an image of {tuple(shape[:2])}")
    return rle_to_patch(mask) if isinstance(mask, Mapping) else bitmap_to_patch(mask)


def _draw_mask(
    picture: np.ndarray, mask: Patch, color: Color, enlarge: int, line: int, tint: float, light: bool
) -> None:
    """Tint the pixels of a mask and trace its outline, in place."""
    if not mask.pixels.size:
        return
    # A margin where the image has one, so that the blur of an enlarged mask is not cut off.
    margin = 1 if enlarge == 1 else math.ceil(3 * ROUNDING) + 1
    height, width = (side // enlarge for side in picture.shape[:2])
    rows, columns = mask.place
    before = min(margin, rows.start), min(margin, columns.start)
    after = min(margin, height - rows.stop), min(margin, width - columns.stop)
    crop = np.pad(np.ascontiguousarray(mask.pixels), list(zip(before, after, strict=True))).view(np.uint8)
    top, left = (mask.top - before[0]) * enlarge, (mask.left - before[1]) * enlarge
    crop = enlarged(crop, enlarge)
    region = picture[top : top + crop.shape[0], left : left + crop.shape[1]]
    table = np.rint((1 - tint) * np.arange(256)[:, None] + tint * np.array(color)).astype(np.uint8)
    np.copyto(region, cv2.LUT(region, table[None]), where=crop.astype(bool)[..., None])
    outlines, _ = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top))
    ink, width = (tuple((c + 255) // 2 for c in color), max(1, line // 2)) if light else (color, line)
    cv2.drawContours(picture, outlines, -1, ink, width, cv2.LINE_AA)


def enlarged(mask: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge a mask and round its outline, which would have the steps of the original pixels.

    Args:
        mask: (H, W) uint8 of 0 and 1.

    Returns:
        (factor * H, factor * W) uint8 of 0 and 1.
    """
    if factor == 1:
        return mask
    first = min(factor, SHARPEST)  # the time of the blur grows with its third power
    large = cv2.resize(mask * 255, None, fx=first, fy=first, interpolation=cv2.INTER_NEAREST)
    reach = math.ceil(3 * ROUNDING * first)
    blurred = cv2.GaussianBlur(large, (2 * reach + 1, 2 * reach + 1), ROUNDING * first)
    blurred = cv2.resize(blurred, (factor * mask.shape[1], factor * mask.shape[0]), interpolation=cv2.INTER_LINEAR)
    # An object of a pixel or two would never reach one half.
    return (blurred > min(127, int(blurred.max()) // 2)).astype(np.uint8)


def _draw_label(
    picture: np.ndarray,
    words: str,
    box: tuple[int, int, int, int],
    color: Color,
    line: int,
    taken: list[tuple[int, int, int, int]],
    room: float,
) -> None:
    """Write on a ground of the box's colour: above the box, inside it or below it, where no other label is yet."""
    height, width = picture.shape[:2]
    size = max(12, round(max(height, width) / 50))
    text = fit(words, size, width)
    pad = max(2, size // 3)
    w, h = text.width + 2 * pad, size + 2 * pad
    if (box[2] - box[0]) * (box[3] - box[1]) < room * w * h:
        return
    left = min(max(box[0] - line // 2, 0), max(width - w, 0))
    right = min(max(box[2] + line // 2 - w, 0), max(width - w, 0))
    above, below = box[1] - h, box[3]
    for x, y in ((left, above), (left, box[1]), (right, above), (left, below), (right, box[1]), (left, below - h)):
        if y < 0 or y + h > height or any(x < t[2] and t[0] < x + w and y < t[3] and t[1] < y + h for t in taken):
            continue
        taken.append((x, y, x + w, y + h))
        cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), color, cv2.FILLED)
        # Rec. 601 luma: black text is easier to read on brighter colours.
        bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 130
        ink = (0, 0, 0) if bright else (255, 255, 255)
        write(picture, text, (x + pad, y + h - pad), ink)
        return
