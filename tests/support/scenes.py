"""Random scenes of polygons, RLEs, crowds and objects without masks, and a slow reference that draws their masks."""

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from detection.data.scene import Scene


class Drawn(NamedTuple):
    """The pixels of a mask, drawn one by one."""

    pixels: np.ndarray
    """(H, W) bool: whose centres are in the mask."""
    low: np.ndarray
    """(2,) x, y of the mask's outline inside the image."""
    high: np.ndarray
    thin: bool
    """Whether a polygon holds no centre at all."""
    sure: np.ndarray
    """(H, W) bool: whose centres do not lie exactly between two pixels of an RLE."""


def ramp(height: int, width: int) -> np.ndarray:
    """An image whose pixels are their own x and y."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    return image


def random_scene(generator: np.random.Generator, first_label: int = 0, image: np.ndarray | None = None) -> Scene:
    """A scene of up to six objects, each with a label of its own."""
    if image is None:
        image = ramp(int(generator.integers(24, 90)), int(generator.integers(24, 90)))
    height, width = image.shape[:2]
    boxes, segmentations, crowd = [], [], []
    for _ in range(int(generator.integers(7))):
        kind = ["polygon", "polygon", "parts", "rle", "crowd", "none"][int(generator.integers(6))]
        half = generator.uniform(4, 16, 2)
        centre = generator.uniform(0, [width, height])
        crowd.append(kind == "crowd")
        if kind in ("polygon", "parts"):
            parts = [star(generator, centre, half, width, height)]
            if kind == "parts":
                parts.append(star(generator, generator.uniform(0, [width, height]), half, width, height))
            points = np.concatenate(parts)
            segmentations.append(parts)
            boxes.append([*points.min(axis=0), *points.max(axis=0)])
        elif kind == "none":
            segmentations.append(None)
            corners = np.stack([centre - half, centre + half]).clip(0, [width, height])
            boxes.append(corners.ravel())
        else:
            y, x = np.mgrid[:height, :width] + 0.5
            bitmap = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 < 1
            bitmap &= generator.random(bitmap.shape) < 0.9
            bitmap[int(centre[1]), int(centre[0])] = True
            segmentations.append(coco_mask.encode(np.asfortranarray(bitmap, dtype=np.uint8)))
            boxes.append(bounds(bitmap))
    count = len(boxes)
    labels = first_label + np.arange(count)
    return Scene(image, np.array(boxes).reshape(-1, 4), labels, np.array(crowd, dtype=bool), segmentations)


def star(generator, centre, half, width, height) -> np.ndarray:
    """A polygon around a centre, concave at times; or a rectangle that may end at the image's border."""
    if generator.random() < 0.3:
        (x0, y0), (x1, y1) = np.stack([centre - half, centre + half]).clip(0, [width, height])
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    room = np.array([width, height]) / 2
    half = np.minimum(half, room)
    centre = centre.clip(half, 2 * room - half)  # cut at the border, it would have spikes without an area
    angles = np.sort(generator.uniform(0, 2 * np.pi, int(generator.integers(5, 12))))
    radius = generator.uniform(0.4, 1, len(angles))[:, None]
    return centre + half * radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def bounds(bitmap: np.ndarray) -> list[float]:
    """The box around the pixels of a bitmap."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def draw(segmentation, scale, offset, height: int, width: int) -> Drawn:
    """Draw a mask in an image, pixel by pixel."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    found, sure = np.zeros((height, width), dtype=bool), np.ones((height, width), dtype=bool)
    if isinstance(segmentation, dict):
        source = coco_mask.decode(segmentation).astype(bool)
        for at in ((x - offset[0]) / scale[0], (y - offset[1]) / scale[1]):
            sure &= np.abs(at - at.round()) > 1e-9
        column, row = np.floor((x - offset[0]) / scale[0]), np.floor((y - offset[1]) / scale[1])
        held = (column >= 0) & (column < source.shape[1]) & (row >= 0) & (row < source.shape[0])
        found[held] = source[row[held].astype(int), column[held].astype(int)]
        rows, columns = np.nonzero(source)
        cells = np.stack([np.stack([columns, rows]), np.stack([columns + 1, rows + 1])]).astype(float)  # (2, 2, n)
        cells = cells * np.reshape(scale, (1, 2, 1)) + np.reshape(offset, (1, 2, 1))
        low = cells.min(axis=0).clip(0, [[width], [height]])
        high = cells.max(axis=0).clip(0, [[width], [height]])
        shown = (high - low > 1e-6).all(axis=0)  # rounding may leave a sliver of the next cell
        edges = np.concatenate([low[:, shown], high[:, shown]], axis=1)
        thin = False
    else:
        outline, thin = [], False
        for polygon in segmentation:
            points = polygon * scale + offset
            following = np.roll(points, -1, axis=0)
            part = inside(points, x, y)
            thin |= not part.any()
            found |= part
            along = np.linspace(0, 1, 1001)[:, None, None]
            ends = corners(height, width)
            outline += [(points + along * (following - points)).reshape(-1, 2), ends[inside(points, *ends.T)]]
        path = np.concatenate(outline)
        path = path[((path > 1e-9) & (path < np.array([width, height]) - 1e-9)).all(axis=1)]  # no edge along the border
        edges = path.T
    low = edges.min(axis=1) if edges.size else np.full(2, np.inf)
    high = edges.max(axis=1) if edges.size else np.full(2, -np.inf)
    return Drawn(found, low, high, thin, sure)


def inside(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points are in a polygon, by the even-odd rule."""
    found = np.zeros(np.shape(x), dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            found ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return found


def corners(height: int, width: int) -> np.ndarray:
    """(4, 2) points just inside the corners of an image, where a mask may end that its outline does not reach."""
    return np.array([[x, y] for x in (1e-6, width - 1e-6) for y in (1e-6, height - 1e-6)])
