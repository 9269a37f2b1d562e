"""Ground truth made safe to score: pycocotools crashes on, or silently mis-scores, what is repaired or refused here."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detection.evaluation.results import read_json
from detection.ops.masks import run_lengths

IMAGE_KEYS = ("id", "height", "width", "file_name", "neg_category_ids", "not_exhaustive_category_ids")
"""What is kept of an image; the last two are LVIS's."""

FARTHEST = 1e6
"""Polygon coordinates beyond it are refused: pycocotools walks along every outline and crashes on 1e8."""


def clean_ground_truth(ground_truth: Mapping[str, Any] | str | Path, masks: bool) -> dict[str, Any]:
    """A copy of a COCO ground truth with all that the engines rely on.

    Annotations are renumbered from 1 (id 0 counts as "not matched" in pycocotools, and of two equal ids one is
    lost); ``iscrowd``, ``area`` and ``bbox`` that are missing or null are filled in; annotations of images that are not
    listed are left out with a warning, and so are, with ``masks``, those without a segmentation.

    Raises:
        ValueError: what cannot be repaired, by file and annotation id: double image ids, unknown categories, boxes
            or polygons that are not finite, RLE that does not fit its image.
    """
    source = "ground truth"
    if isinstance(ground_truth, str | Path):
        source = str(ground_truth)
        ground_truth = read_json(ground_truth)
    if not isinstance(ground_truth, Mapping) or not {"images", "categories"} <= ground_truth.keys():
        raise ValueError(f"{source}: expected a COCO dict with images, annotations and categories")
    images = {int(image["id"]): image for image in ground_truth["images"]}
    if len(images) < len(ground_truth["images"]):
        raise ValueError(f"{source}: {len(ground_truth['images']) - len(images)} image ids occur twice")
    known = {int(category["id"]) for category in ground_truth["categories"]}

    annotations: list[dict[str, Any]] = []
    homeless = maskless = 0
    for annotation in ground_truth.get("annotations", ()):
        where = f"{source}: annotation {annotation.get('id')}"
        image = images.get(annotation["image_id"])
        if image is None:
            homeless += 1
            continue
        if annotation["category_id"] not in known:
            raise ValueError(f"{where}: category {annotation['category_id']} is not among the categories")
        if masks and not annotation.get("segmentation"):
            maskless += 1
            continue
        annotations.append(_clean_annotation(annotation, image, masks, where) | {"id": len(annotations) + 1})
    if homeless:
        warnings.warn(f"{source}: {homeless} annotations belong to no listed image and are not scored", stacklevel=3)
    if maskless:
        warnings.warn(f"{source}: {maskless} objects have no mask and are left out of the segm scores", stacklevel=3)
    return {
        "info": {},
        "images": [{key: image[key] for key in IMAGE_KEYS if key in image} for image in images.values()],
        "categories": [
            {"id": c["id"], "name": str(c["name"])} | ({"frequency": c["frequency"]} if "frequency" in c else {})
            for c in ground_truth["categories"]
        ],
        "annotations": annotations,
    }


def _clean_annotation(
    annotation: Mapping[str, Any], image: Mapping[str, Any], masks: bool, where: str
) -> dict[str, Any]:
    segmentation, box, area = (annotation.get(key) for key in ("segmentation", "bbox", "area"))
    rle = None
    if segmentation and (masks or box is None or area is None):
        segmentation = _checked_segmentation(segmentation, image, where)
        if box is None or area is None:
            rle = _to_rle(segmentation, image)
    if box is not None:
        box = [float(value) for value in box]
    elif rle is not None:
        box = coco_mask.toBbox(rle).tolist()
    else:
        raise ValueError(f"{where}: has neither bbox nor segmentation")
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) < 0:
        raise ValueError(f"{where}: box is {box}, but must be four finite numbers x, y, width >= 0, height >= 0")
    if area is None:
        area = box[2] * box[3] if rle is None else coco_mask.area(rle)
    area = float(area)
    if not np.isfinite(area):
        raise ValueError(f"{where}: area is {area}; remove it to have it computed")
    clean = {
        "image_id": int(annotation["image_id"]),
        "category_id": int(annotation["category_id"]),
        "bbox": box,
        "area": area,
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }
    return clean | {"segmentation": segmentation} if masks else clean


def _checked_segmentation(segmentation: Any, image: Mapping[str, Any], where: str) -> Any:
    """Polygons as lists of floats, or an RLE that fits the image."""
    if not {"height", "width"} <= image.keys():
        raise ValueError(f"{where}: its image {image['id']} has no height and width, which masks need")
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != [image["height"], image["width"]]:
            raise ValueError(
                f"{where}: RLE of size {segmentation.get('size')} in an image of {image['height']} x {image['width']}"
            )
        try:
            runs = run_lengths(segmentation)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
        counts = segmentation["counts"]
        size = [int(image["height"]), int(image["width"])]
        return {"size": size, "counts": counts if isinstance(counts, str | bytes) else runs.tolist()}
    if isinstance(segmentation, Sequence) and isinstance(segmentation[0], int | float):
        segmentation = [segmentation]  # one polygon, not in a list
    polygons = [np.asarray(polygon, dtype=np.float64).ravel() for polygon in segmentation]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"{where}: polygon of {len(polygon)} numbers; it takes x, y of at least three points")
        if not (np.abs(polygon) < FARTHEST).all():
            raise ValueError(f"{where}: polygon with coordinates that are not finite, or beyond {FARTHEST:g}")
    return [polygon.tolist() for polygon in polygons]


def _to_rle(segmentation: Any, image: Mapping[str, Any]) -> Any:
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    rles = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    return rles if isinstance(rles, dict) else coco_mask.merge(rles)
