"""Draw synthetic shapes as a data set in COCO format; a detector learns it in minutes, and tests use it.

Like real data, it has occluded, tiny and truncated objects, crowds, and images without objects. Its category IDs have
gaps, and its images are JPEG and PNG files of many sizes. Its masks are polygons of several parts, compressed RLE
(objects with a hole) and uncompressed RLE (crowds).

All shapes are drawn on a grid of cells that is ``FINE`` times finer than the pixels. Outlines: (n, 2) float64 x, y.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

FINE = 4
"""Cells per pixel in each direction: edges are smooth, and masks are exact to a sixteenth of a pixel."""

CATEGORIES = {3: "circle", 7: "square", 11: "triangle", 18: "ring", 42: "star"}
"""Names by category ID; the IDs have gaps, as those of COCO."""

COLOURS = {3: (222, 70, 60), 7: (64, 176, 80), 11: (60, 104, 216), 18: (40, 178, 200), 42: (240, 186, 44)}
"""RGB of each category before random variation: colour helps a network that trains for only a few minutes."""

GROUNDS = ((214, 204, 186), (150, 158, 166), (186, 196, 182), (92, 98, 108), (196, 178, 168), (122, 112, 104))
"""RGB of the backgrounds, all less saturated than any object."""

CORNERS = {
    7: ("top", "right", "bottom", "left"),
    11: ("top", "right", "left"),
    42: ("top", "upper_right", "lower_right", "lower_left", "upper_left"),
}
"""Names of the keypoints by category ID: the corners or tips clockwise, from the topmost one."""

LEAST_VISIBLE = 0.5
"""Least visible fraction: the border cuts off at most half of an object, and others hide at most half of the rest."""


def write_shapes(
    folder: str | Path,
    train: int = 400,
    val: int = 100,
    size: int | tuple[int, int] = (96, 160),
    seed: int = 0,
    keypoints: bool = False,
) -> Path:
    """Write the data set in the layout of COCO: ``train/``, ``val/`` and ``annotations/instances_{train,val}.json``.

    The same arguments give the same bytes. Image ``i`` of a split depends only on size, seed and ``i``, so that a
    larger data set begins with the smaller one. The function writes the annotations last: if both files exist, the data
    set is complete.

    Args:
        folder: output folder.
        train, val: number of images of each split.
        size: range of heights and widths in pixels, or one value for both.
        seed: seed of the random shapes.
        keypoints: annotate the corners of squares and triangles, and the tips of stars.

    Returns:
        The folder.

    Raises:
        ValueError: a size is below 32, or the range is empty.
    """
    folder = Path(folder)
    low, high = (size, size) if isinstance(size, int) else size
    if not 32 <= low <= high:
        raise ValueError(f"size is {size}; use (low, high) with 32 <= low <= high, for example (96, 160)")
    splits = {"train": train, "val": val}
    written = {name: _write_images(folder / name, num, low, high, seed, keypoints) for name, num in splits.items()}
    (folder / "annotations").mkdir(exist_ok=True)
    for name, annotations in written.items():
        path = folder / "annotations" / f"instances_{name}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(annotations), encoding="utf-8")
        os.replace(partial, path)
    return folder


def draw_scene(
    index: int, height: int, width: int, rng: np.random.Generator, keypoints: bool = False
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw one image, and annotate its objects.

    For every seed, each twentieth image is empty and each twelfth has a crowd, so that small data sets also have them.

    Args:
        index: number of the image in its split.
        height, width: size in pixels.
        rng: source of the random numbers.
        keypoints: annotate corners and tips.

    Returns:
        image: (height, width, 3) uint8 RGB.
        annotations: COCO annotations without IDs.
    """
    image = _ground(height, width, rng)
    if index % 20 == 7:
        return _finish(image, rng), []
    shapes: list[_Shape] = []
    if index % 12 == 5:
        shapes.append(_draw_crowd(image, rng))
    wanted = len(shapes) + int(rng.integers(1, 7))
    for _ in range(12 * wanted):  # some attempts find no room
        if len(shapes) == wanted:
            break
        _try_shape(image, shapes, rng)
    found = [_annotation(shape) | (_keypoints(shape) if keypoints else {}) for shape in shapes]
    return _finish(image, rng), found


@dataclass
class _Shape:
    """An object in the image."""

    category_id: int
    visible: np.ndarray
    """(FINE * height, FINE * width) bool: its cells that no other object hides."""
    drawn: int
    """Number of its cells inside the image, including hidden ones."""
    crowd: bool = False
    corners: np.ndarray | None = None
    """(n, 2) x, y of the keypoints; None if its category has none."""


def _write_images(folder: Path, num: int, low: int, high: int, seed: int, keypoints: bool) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    offset = 500_000 if folder.name == "val" else 1000  # the splits have no ID in common
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num):
        rng = np.random.default_rng((seed, offset, index))
        height, width = (int(side) for side in rng.integers(low, high + 1, 2))
        image, found = draw_scene(index, height, width, rng, keypoints)
        suffix, options = (".png", []) if index % 4 == 3 else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
        image_id = offset + 7 * index
        name = f"{image_id:06d}{suffix}"
        (folder / name).write_bytes(cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes())
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in found:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    return {
        "info": {"description": "Synthetic shapes", "seed": seed},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": "shape"} | (_skeleton(i) if keypoints else {})
            for i, name in CATEGORIES.items()
        ],
    }


def _try_shape(image: np.ndarray, shapes: list[_Shape], rng: np.random.Generator) -> None:
    """Draw one more object in front of the others, unless too little of it or of another would be visible."""
    height, width = image.shape[:2]
    category_id = int(rng.choice(list(CATEGORIES)))
    tiny = rng.random() < 0.06
    radius = rng.uniform(3.5, 5) if tiny else np.exp(rng.uniform(np.log(9), np.log(min(31, 0.3 * min(height, width)))))
    reach = radius * (0.2 if rng.random() < 0.15 else 0.9)  # with a small reach, the border can cut off the object
    centre = np.array([rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)])
    outline = [part * radius + centre for part in _outline(category_id, rng)]

    cells = _fill(outline, height, width)
    areas = [FINE**2 * cv2.contourArea(part.astype(np.float32)) for part in outline]
    whole = areas[0] - sum(areas[1:])
    if cells.sum() < LEAST_VISIBLE * whole or _to_pixels(cells).sum() < 12:
        return
    remaining = [shape.visible & ~cells for shape in shapes]
    for shape, visible in zip(shapes, remaining, strict=True):
        if visible.sum() < LEAST_VISIBLE * shape.drawn or _to_pixels(visible).sum() < 12:
            return
    for shape, visible in zip(shapes, remaining, strict=True):
        shape.visible = visible
    shapes.append(_Shape(category_id, cells, int(cells.sum()), corners=_corners(category_id, outline[0])))
    _paint(image, cells, category_id, rng)


def _corners(category_id: int, outline: np.ndarray) -> np.ndarray | None:
    """Return the keypoints of an outline, clockwise from the topmost one; None if the category has none."""
    if category_id not in CORNERS:
        return None
    corners = outline[:: len(outline) // len(CORNERS[category_id])]
    return np.roll(corners, -int(corners[:, 1].argmin()), axis=0)


def _skeleton(category_id: int) -> dict[str, Any]:
    """Return the names of a category's keypoints, and the lines around it; nothing if it has none."""
    names = CORNERS.get(category_id, ())
    edges = [[k + 1, (k + 1) % len(names) + 1] for k in range(len(names))]
    return {"keypoints": list(names), "skeleton": edges} if names else {}


def _keypoints(shape: _Shape) -> dict[str, Any]:
    """Return the keypoints of an object: 2 if visible, 1 if another object hides it, 0 outside the image."""
    if shape.corners is None:
        return {}
    height, width = shape.visible.shape
    points: list[float] = []
    for x, y in shape.corners:
        column, row = int(x * FINE), int(y * FINE)
        inside = 0 <= x * FINE < width and 0 <= y * FINE < height
        around = shape.visible[max(0, row - FINE) : row + FINE + 1, max(0, column - FINE) : column + FINE + 1]
        # COCO counts pixels from 0: the centre of the first pixel is at 0 in the file.
        points += [float(x) - 0.5, float(y) - 0.5, 2 if around.any() else 1] if inside else [0.0, 0.0, 0]
    return {"keypoints": points, "num_keypoints": sum(seen > 0 for seen in points[2::3])}


def _draw_crowd(image: np.ndarray, rng: np.random.Generator) -> _Shape:
    """Draw a heap of small circles that an annotator would mark as a crowd."""
    height, width = image.shape[:2]
    spread = 0.11 * min(height, width)
    centre = np.array([rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height])
    heap = np.zeros((FINE * height, FINE * width), bool)
    for _ in range(24):
        place = centre + rng.uniform(-spread, spread, 2) * (1.5, 1)
        cells = _fill([_outline(3, rng)[0] * rng.uniform(2.2, 3.4) + place], height, width)
        _paint(image, cells, 3, rng)
        heap |= cells
    return _Shape(3, heap, int(heap.sum()), crowd=True)


def _outline(category_id: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the outer outline of a shape, then its holes, in the unit circle and with a random rotation."""
    turn = rng.uniform(0, 2 * np.pi)

    def polygon(num: int, radius: float | np.ndarray = 1.0) -> np.ndarray:
        angle = turn + np.arange(num) * (2 * np.pi / num)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.reshape(radius, (-1, 1))

    match CATEGORIES[category_id]:
        case "square":
            return [polygon(4)]
        case "triangle":
            return [polygon(3)]
        case "star":
            return [polygon(10, np.tile([1.0, 0.45], 5))]
        case "ring":
            return [polygon(72), polygon(72, rng.uniform(0.5, 0.6))]
        case _:
            return [polygon(72, 0.9)]


def _fill(outline: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return the cells inside an outline and outside of its holes: (FINE * height, FINE * width) bool."""
    cells = np.zeros((FINE * height, FINE * width), np.uint8)
    # Cell i covers [i, i + 1); for cv2, its centre is at i. shift=4: coordinates in sixteenths of a cell.
    corners = [np.round((part * FINE - 0.5) * 16).astype(np.int32) for part in outline]
    cv2.fillPoly(cells, corners, 1, shift=4)
    return cells.astype(bool)


def _coverage(cells: np.ndarray) -> np.ndarray:
    """Return the fraction of each pixel that the cells cover: (height, width) float32 in 0..1."""
    height, width = cells.shape
    return cv2.resize(cells.astype(np.float32), (width // FINE, height // FINE), interpolation=cv2.INTER_AREA)


def _to_pixels(cells: np.ndarray) -> np.ndarray:
    """Return the mask of the pixels that the cells cover by more than half: (height, width) bool."""
    return _coverage(cells) > 0.5


def _ground(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a background with uneven brightness and sometimes stripes: (height, width, 3) float32 RGB."""
    base = np.array(GROUNDS[rng.integers(len(GROUNDS))], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
    surface = np.zeros((height, width), np.float32)
    for cells, strength in ((3, 14.0), (8, 7.0), (24, 4.0)):
        patch = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        surface += cv2.resize(patch, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:  # stripes
        y, x = np.mgrid[:height, :width].astype(np.float32)
        angle = rng.uniform(0, np.pi)
        wave = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / rng.uniform(5, 14))
        surface += np.float32(rng.uniform(2, 6)) * np.sin(wave)
    return base + surface[..., None]


def _paint(image: np.ndarray, cells: np.ndarray, category_id: int, rng: np.random.Generator) -> None:
    """Draw an object with light from the top left, a darker rim and a soft shadow."""
    height, width = image.shape[:2]
    alpha = _coverage(cells)
    below = cv2.warpAffine(alpha, np.array([[1, 0, 1.5], [0, 1, 2]], np.float32), (width, height))
    image *= (1 - 0.4 * cv2.GaussianBlur(below, (0, 0), 1.6))[..., None]

    inner = _coverage(cv2.erode(cells.astype(np.uint8), np.ones((2 * FINE + 1, 2 * FINE + 1), np.uint8)))
    y, x = np.nonzero(alpha)
    slope = np.add.outer(np.arange(height) - y.mean(), np.arange(width) - x.mean()) / (np.ptp(y) + np.ptp(x) + 1)
    light = (0.78 + 0.22 * inner - 0.3 * slope)[..., None]
    colour = np.clip(np.array(COLOURS[category_id]) * rng.uniform(0.85, 1.1) + rng.uniform(-16, 16, 3), 0, 255)
    image += alpha[..., None] * (colour * light - image)


def _finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise to the whole image, and convert it to uint8."""
    grain = rng.normal(0, rng.uniform(1.5, 5), image.shape)
    return np.clip(np.round(image + grain), 0, 255).astype(np.uint8)


def _annotation(shape: _Shape) -> dict[str, Any]:
    """Return the COCO annotation of an object, without IDs."""
    mask = np.asfortranarray(_to_pixels(shape.visible), dtype=np.uint8)
    height, width = mask.shape
    rle = coco_mask.encode(mask)
    polygons = None if shape.crowd else _polygons(shape.visible)
    segmentation: list[list[float]] | dict[str, Any]
    if polygons is not None:
        segmentation = polygons
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        corners = np.concatenate([np.reshape(part, (-1, 2)) for part in polygons])
        box = np.concatenate([corners.min(0), np.ptp(corners, axis=0)]).tolist()
    else:
        counts = _count_runs(mask) if shape.crowd else rle["counts"].decode("ascii")
        segmentation = {"size": [height, width], "counts": counts}
        box = coco_mask.toBbox(rle).tolist()
    return {
        "category_id": shape.category_id,
        "bbox": box,
        "area": float(coco_mask.area(rle)),
        "iscrowd": int(shape.crowd),
        "segmentation": segmentation,
    }


def _polygons(cells: np.ndarray) -> list[list[float]] | None:
    """Return the outlines of the visible parts as x, y, x, y, ... in pixels; None if a part has a hole."""
    outlines, tree = cv2.findContours(cells.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for outline, (_, _, _, parent) in zip(outlines, tree[0], strict=True):
        if cv2.contourArea(outline) < FINE**2:  # parts and holes smaller than a pixel
            continue
        if parent >= 0:
            return None
        simple = cv2.approxPolyDP(outline, 1.0, True)[:, 0]  # at most a quarter of a pixel off
        if len(simple) >= 3:
            # findContours returns the centres of the outermost cells.
            polygons.append(((simple + 0.5) / FINE).ravel().tolist())
    return polygons or None


def _count_runs(mask: np.ndarray) -> list[int]:
    """Return the uncompressed RLE of a mask: lengths of the runs of 0, 1, 0, ..., column by column."""
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff(starts, prepend=0, append=flat.size).tolist()
