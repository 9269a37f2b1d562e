"""Pictures of a data set: as its files have it, and as the detector will see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from detection.coco.segmentation import Segmentation
from detection.data.dataset import CocoDataset
from detection.data.sample import Sample
from detection.data.scene import Scene
from detection.fast.pasting import encode_masks
from detection.foreign import shown
from detection.report.frame import frame
from detection.report.pictures import data_url
from detection.visualize import draw
from detection.wording import plural


@dataclass(frozen=True)
class Seen:
    """An image before and after."""

    file_name: str
    image_id: int
    objects: int
    before: np.ndarray
    after: list[np.ndarray]
    """In the first epochs."""
    sizes: list[tuple[int, int]]
    """Height, width of the images before and after; pictures of small ones are enlarged."""


def look(dataset: CocoDataset, index: int, views: int) -> Seen:
    """An image with its objects: (H, W, 3) uint8 RGB pictures.

    Args:
        dataset: with the transforms to show.
        views: how many epochs to show.
    """
    annotations = dataset.annotations
    names = annotations.categories.names
    scene = dataset.scene(index)
    samples = [dataset[index, epoch] for epoch in range(views)]
    return Seen(
        file_name=annotations.file_name(index),
        image_id=int(annotations.image_ids[index]),
        objects=len(scene.boxes),
        before=draw_scene(scene, names),
        after=[draw_sample(sample, names) for sample in samples],
        sizes=[image.shape[:2] for image in (scene.image, *(sample.image for sample in samples))],
    )


def draw_scene(scene: Scene, names: Sequence[str]) -> np.ndarray:
    """Boxes, and masks as the file has them."""
    height, width = scene.image.shape[:2]
    masks = [_rle(segmentation, height, width) for segmentation in scene.segmentations]
    return draw(scene.image, scene.boxes, scene.labels, None, masks, names)


def draw_sample(sample: Sample, names: Sequence[str]) -> np.ndarray:
    """Boxes, and the bitmaps that the mask head learns from."""
    image = sample.image
    masks = None
    if sample.masks is not None:
        known = torch.from_numpy((sample.masks == 1).astype(np.float32))
        masks = encode_masks(known, torch.from_numpy(sample.boxes), *image.shape[:2])
    return draw(image, sample.boxes, sample.labels, None, masks, names)


def page(title: str, seen: Sequence[Seen]) -> str:
    """All of them as one HTML page that needs nothing else."""
    items = []
    for one in seen:
        pictures = [("in the file", one.before)] + [(f"epoch {k}", picture) for k, picture in enumerate(one.after)]
        figures = "".join(
            f'<figure><img src="{data_url(picture, 640)}" alt="{escape(label)}" loading="lazy">'
            f"<figcaption>{label}, {width} x {height}</figcaption></figure>"
            for (label, picture), (height, width) in zip(pictures, one.sizes, strict=True)
        )
        head = f"{escape(shown(one.file_name))} (id {one.image_id}), {plural(one.objects, 'object')}"
        items.append(f'<h3>{head}</h3><div class="pair">{figures}</div>')
    return frame(title, "".join(items))


def write_row(path: Path, pictures: Sequence[np.ndarray]) -> None:
    """All in a row, of one height."""
    height = max(picture.shape[0] for picture in pictures)
    row = [
        cv2.resize(p, (round(p.shape[1] * height / p.shape[0]), height), interpolation=cv2.INTER_AREA)
        if p.shape[0] != height
        else p
        for p in pictures
    ]
    sheet = np.concatenate(row, axis=1)[..., ::-1]
    path.write_bytes(cv2.imencode(".jpg", np.ascontiguousarray(sheet))[1].tobytes())


def _rle(segmentation: Segmentation, height: int, width: int) -> Mapping[str, Any]:
    """A COCO RLE of the image's size."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) == (height, width):
            return segmentation
        # A large JPEG may have been decoded at a half of its size, or less.
        mask = np.asarray(coco_mask.decode(segmentation), dtype=np.uint8)
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        return coco_mask.encode(np.asfortranarray(small))  # type: ignore[no-any-return]
    polygons = [np.asarray(polygon, dtype=np.float64).ravel().tolist() for polygon in segmentation or ()]
    if not polygons:
        return {"size": [height, width], "counts": [height * width]}
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))  # type: ignore[no-any-return]
