"""Ground truth made safe to score: pycocotools crashes on, or silently mis-scores, what is repaired or refused here."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detection.coco.flags import flag
from detection.coco.rle import run_lengths
from detection.documents import read_json
from detection.foreign import shown

IMAGE_KEYS = ("id", "height", "width", "file_name", "neg_category_ids", "not_exhaustive_category_ids")
"""What is kept of an image; the last two are LVIS's."""

FARTHEST = 1e6
"""Polygon coordinates beyond it are refused: pycocotools walks along every outline and crashes on 1e8."""


def clean_ground_truth(ground_truth: Mapping[str, Any] | str | Path, masks: bool) -> dict[str, Any]:
    """A copy of a COCO ground truth with all that the engines rely on.

    Annotations are renumbered from 1 (id 0 counts as "not matched" in pycocotools, and of two equal ids one is
    lost); ``iscrowd``, ``area`` and ``bbox`` that are missing or null are filled in; annotations of images that are not
    listed are left out with a warning, and so are, with ``masks``, those without a segmentation. An annotation with
    ``ignore`` counts as a crowd, as it does in training; pycocotools does not follow that key.

    Raises:
        ValueError: what cannot be repaired, by file and annotation id: double image ids, ids that are no integers,
            unknown categories, double ones or such without a name, lists or entries of another form, boxes or polygons
            that are not finite, RLE that does not fit its image.
    """
    source = "ground truth"
    if isinstance(ground_truth, str | Path):
        source = str(ground_truth)
        ground_truth = read_json(ground_truth, nonfinite=True)
    if not isinstance(ground_truth, Mapping) or not {"images", "categories"} <= ground_truth.keys():
        raise ValueError(f"{source}: expected a COCO dict with images, annotations and categories")
    if "annotations" not in ground_truth:
        raise ValueError(f"{source}: has no list 'annotations': a file of images alone has nothing to score against")
    listed, classes, objects = (_entries(ground_truth, key, source) for key in ("images", "categories", "annotations"))
    images = {_id(image, "id", f"{source}: images[{k}]"): image for k, image in enumerate(listed)}
    if len(images) < len(listed):
        raise ValueError(f"{source}: {len(listed) - len(images)} image ids occur twice")
    categories = [_clean_category(c, f"{source}: categories[{k}]") for k, c in enumerate(classes)]
    known = {category["id"] for category in categories}
    if len(known) < len(categories):
        raise ValueError(
            f"{source}: {len(categories) - len(known)} category ids occur twice; give every category one of its own"
        )

    annotations: list[dict[str, Any]] = []
    homeless = maskless = 0
    for annotation in objects:
        where = f"{source}: annotation {annotation.get('id')}"
        image_id = _id(annotation, "image_id", where)
        image = images.get(image_id)
        if image is None:
            homeless += 1
            continue
        category_id = _id(annotation, "category_id", where)
        if category_id not in known:
            raise ValueError(f"{where}: category {category_id} is not among the categories")
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            segmentation = [part for part in segmentation if not isinstance(part, list) or part]
        if masks and not segmentation:
            maskless += 1
            continue
        try:
            clean = _clean_annotation(annotation, segmentation, image, masks)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
        clean |= {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id}
        annotations.append(clean)
    ignored = sum(flag(a.get("ignore")) is True and not flag(a.get("iscrowd")) for a in objects)
    if ignored:
        warnings.warn(f"{source}: {ignored} objects have ignore 1 and count as crowds (as in training)", stacklevel=3)
    if annotations and all(annotation["iscrowd"] for annotation in annotations):
        what = f"all {len(annotations)} objects are crowds: nothing can be scored, AP is n/a (-1 in pycocotools)"
        warnings.warn(f"{source}: {what}; set iscrowd to 0 where an annotation is one object", stacklevel=3)
    if homeless:
        warnings.warn(f"{source}: {homeless} annotations belong to no listed image and are not scored", stacklevel=3)
    if maskless:
        warnings.warn(f"{source}: {maskless} objects have no mask and are left out of the segm scores", stacklevel=3)
    return {
        "info": {},
        "images": [
            {key: image[key] for key in IMAGE_KEYS if key in image} | {"id": id} for id, image in images.items()
        ],
        "categories": categories,
        "annotations": annotations,
    }


def _entries(ground_truth: Mapping[str, Any], key: str, source: str) -> Sequence[Mapping[str, Any]]:
    """The list of that name, of dicts."""
    entries = ground_truth.get(key, ())
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{source}: {key} is {type(entries).__name__}, but must be a list; [] if there are none")
    for k, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(f"{source}: {key}[{k}] is {str(entry)[:50]!r}, but must be a dict; mend or remove it")
    return entries


def _id(entry: Mapping[str, Any], key: str, where: str) -> int:
    """An id as training reads it: 17, 17.0 and "17" are one."""
    value = entry.get(key)
    try:
        number = int(value)  # type: ignore[arg-type]
        whole = isinstance(value, str) or number == value
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{where}: {key} is {shown(repr(value))}, but must be an integer")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{where}: {key} is {shown(repr(value))}, but must fit into 64 bits; give it a smaller number")
    if isinstance(value, float) and abs(value) >= 2**53:
        raise ValueError(f"{where}: {key} is {value!r}, which is not exact; write it as an integer")
    return number


def _clean_category(category: Mapping[str, Any], where: str) -> dict[str, Any]:
    if category.get("name") is None:
        raise ValueError(f"{where} has no name")
    clean = {"id": _id(category, "id", where), "name": str(category["name"])}
    return clean | ({"frequency": category["frequency"]} if "frequency" in category else {})


def _clean_annotation(
    annotation: Mapping[str, Any], segmentation: Any, image: Mapping[str, Any], masks: bool
) -> dict[str, Any]:
    """All but the ids; what is raised is still without the place."""
    box, area = annotation.get("bbox"), annotation.get("area")
    rle = None
    if segmentation and (masks or box is None or area is None):
        segmentation = _checked_segmentation(segmentation, image)
        if box is None or area is None:
            rle = _to_rle(segmentation, image)
    if box is not None:
        box = _floats(box, "bbox")
    elif rle is not None:
        box = coco_mask.toBbox(rle).tolist()
    else:
        raise ValueError("has neither bbox nor segmentation")
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) < 0:
        raise ValueError(f"box is {box}, but must be four finite numbers x, y, width >= 0, height >= 0")
    if area is None:
        area = box[2] * box[3] if rle is None else coco_mask.area(rle)
    area = _floats([area], "area")[0]
    if not np.isfinite(area):
        raise ValueError(f"area is {area}; remove it to have it computed")
    given = annotation.get("iscrowd")
    crowd = False if given is None else flag(given)
    if crowd is None:
        raise ValueError(f"iscrowd is {str(given)[:50]!r}, but must be 0 or 1")
    ignored = bool(flag(annotation.get("ignore")))
    clean = {"bbox": box, "area": area, "iscrowd": int(crowd or ignored)}
    return clean | {"segmentation": segmentation} if masks else clean


def _floats(values: Any, key: str) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise ValueError(f"{key} is {str(values)[:50]}, but must be numbers") from None


def _checked_segmentation(segmentation: Any, image: Mapping[str, Any]) -> Any:
    """Polygons as lists of floats, or an RLE that fits the image."""
    if not {"height", "width"} <= image.keys():
        raise ValueError(f"its image {image['id']} has no height and width, which masks need")
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != [image["height"], image["width"]]:
            raise ValueError(
                f"RLE of size {segmentation.get('size')} in an image of {image['height']} x {image['width']}"
            )
        runs = run_lengths(segmentation)
        counts = segmentation["counts"]
        size = [int(image["height"]), int(image["width"])]
        return {"size": size, "counts": counts if isinstance(counts, str | bytes) else runs.tolist()}
    if isinstance(segmentation, Sequence) and isinstance(segmentation[0], int | float):
        segmentation = [segmentation]  # one polygon, not in a list
    polygons = [np.asarray(polygon, dtype=np.float64).ravel() for polygon in segmentation]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"polygon of {len(polygon)} numbers; it takes x, y of at least three points")
        if not (np.abs(polygon) < FARTHEST).all():
            raise ValueError(f"polygon with coordinates that are not finite, or beyond {FARTHEST:g}")
    return [polygon.tolist() for polygon in polygons]


def _to_rle(segmentation: Any, image: Mapping[str, Any]) -> Any:
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    rles = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    return rles if isinstance(rles, dict) else coco_mask.merge(rles)
