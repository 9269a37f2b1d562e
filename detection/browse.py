"""Draw images of a data set: as in the files, and as the detector gets them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from detection.categories import Skeleton
from detection.coco.segmentation import Segmentation
from detection.data.augmentation import Albumentations
from detection.data.dataset import CocoDataset
from detection.data.sample import Sample
from detection.data.scene import Scene
from detection.fast.pasting import encode_masks
from detection.foreign import shown
from detection.report.frame import frame
from detection.report.page import image, script
from detection.report.pictures import Picture, data_url
from detection.visualize import draw, tinted
from detection.wording import plural

SETTINGS = ("p", "height", "width", "short_sides", "long_side", "limit", "scale", "brightness_limit", "contrast_limit")
"""Attributes of transforms that the page shows."""


@dataclass(frozen=True)
class Seen:
    """An image before and after augmentation."""

    file_name: str
    image_id: int
    objects: int
    classes: tuple[str, ...]
    """Names of the classes of its objects."""
    before: np.ndarray
    after: list[np.ndarray]
    """The image in the first epochs."""
    sizes: list[tuple[int, int]]
    """Height, width of the images before and after; small images are enlarged for display."""


def look(dataset: CocoDataset, index: int, views: int) -> Seen:
    """Draw an image with its objects, before and after augmentation.

    Args:
        dataset: the data set, with the transforms to show.
        views: number of epochs to show.
    """
    annotations = dataset.annotations
    names = annotations.categories.names
    scene = dataset.scene(index)
    samples = [dataset[index, epoch] for epoch in range(views)]
    return Seen(
        file_name=annotations.file_name(index),
        image_id=int(annotations.image_ids[index]),
        objects=len(scene.boxes),
        classes=tuple(names[k] for k in sorted(set(scene.labels.tolist()))),
        before=draw_scene(scene, names, annotations.categories.skeletons),
        after=[draw_sample(sample, names, annotations.categories.skeletons) for sample in samples],
        sizes=[image.shape[:2] for image in (scene.image, *(sample.image for sample in samples))],
    )


def draw_scene(scene: Scene, names: Sequence[str], skeletons: Sequence[Skeleton] = ()) -> np.ndarray:
    """Draw boxes, masks as in the file and, if the data set has them, keypoints."""
    height, width = scene.image.shape[:2]
    masks = [_rle(segmentation, height, width) for segmentation in scene.segmentations]
    seen = _tinted(scene.image, scene.semantic_map())
    points = scene.points()
    return draw(seen, scene.boxes, scene.labels, None, masks, names, keypoints=points, skeletons=skeletons)


def draw_sample(sample: Sample, names: Sequence[str], skeletons: Sequence[Skeleton] = ()) -> np.ndarray:
    """Draw boxes, and the bitmaps and keypoints that the heads are trained on."""
    image = sample.image
    masks = None
    if sample.masks is not None:
        known = torch.from_numpy((sample.masks == 1).astype(np.float32))
        masks = encode_masks(known, torch.from_numpy(sample.boxes), *image.shape[:2])
    seen, points = _tinted(image, sample.semantic), sample.keypoints
    return draw(seen, sample.boxes, sample.labels, None, masks, names, keypoints=points, skeletons=skeletons)


def _tinted(image: np.ndarray, semantic: np.ndarray | None) -> np.ndarray:
    return image if semantic is None else tinted(image, semantic, 0.35)


def augmentations(transforms: Sequence[object]) -> list[str]:
    """Name the transforms of a data set with their settings, such as ``HorizontalFlip(p=0.5)``."""
    found = []
    for one in transforms:
        if isinstance(one, Albumentations):
            found += augmentations(one.transforms)
        else:
            shown_settings = {k: v for k, v in vars(one).items() if k in SETTINGS}
            words = ", ".join(f"{key}={value}" for key, value in shown_settings.items())
            found.append(type(one).__name__ + (f"({words})" if words else ""))
    return found


def file_names(seen: Sequence[Seen]) -> list[str]:
    """Name a JPEG for each image by its source: folders become part of the name, and equal names get the image id."""
    stems = [re.sub(r"[^\w.\-]+", "_", str(Path(one.file_name).with_suffix(""))).strip("._") for one in seen]
    return [
        f"{stem}.jpg" if stem and stems.count(stem) == 1 else f"{stem or 'image'}_{one.image_id}.jpg"
        for stem, one in zip(stems, seen, strict=True)
    ]


def page(title: str, seen: Sequence[Seen], transforms: Sequence[str] = ()) -> str:
    """Write one HTML page with all images, which needs no network.

    Args:
        transforms: names of the augmentations, from :func:`augmentations`.
    """
    items = []
    classes = sorted({name for one in seen for name in one.classes})
    number = {name: str(k) for k, name in enumerate(classes)}
    for one in seen:
        pictures = [("in the file", one.before)] + [(f"epoch {k}", picture) for k, picture in enumerate(one.after)]
        figures = "".join(
            f"<figure>{image(Picture(data_url(picture, 800)), f'{one.file_name}, {label}')}"
            f"<figcaption>{label}, {width} × {height}</figcaption></figure>"
            for (label, picture), (height, width) in zip(pictures, one.sizes, strict=True)
        )
        head = f"{escape(shown(one.file_name))} (id {one.image_id}), {plural(one.objects, 'object')}"
        own = " ".join(number[name] for name in one.classes)
        names = escape(", ".join(map(shown, one.classes)) or "no objects")
        items.append(
            f'<section class="case" data-classes="{own}"><h3>{head}</h3><p class="note">{names}</p>'
            f'<div class="pair three">{figures}</div></section>'
        )
    options = "".join(f'<option value="{number[name]}">{escape(shown(name))}</option>' for name in classes)
    choice = (
        f'<p class="filter" hidden><label>Class <select><option value="">all</option>{options}</select></label></p>'
    )
    steps = ", ".join(escape(one) for one in transforms) or "none"
    return frame(title, "".join(items), f"<p>Augmentation: {steps}</p>{choice}", script("page.js"))


def write_row(path: Path, pictures: Sequence[np.ndarray]) -> None:
    """Write all images in a row, with the same height."""
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
    """Return a segmentation as a COCO RLE of the image's size."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) == (height, width):
            return segmentation
        # A large JPEG may have been decoded at half its size, or less.
        mask = np.asarray(coco_mask.decode(segmentation), dtype=np.uint8)
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        return coco_mask.encode(np.asfortranarray(small))  # type: ignore[no-any-return]
    polygons = [np.asarray(polygon, dtype=np.float64).ravel().tolist() for polygon in segmentation or ()]
    if not polygons:
        return {"size": [height, width], "counts": [height * width]}
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))  # type: ignore[no-any-return]
