"""Check and repair ground truth before scoring. pycocotools would crash on such data, or silently score it wrongly."""

import math
import warnings
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from detection.coco.checks import category_name, check_box, check_size, collect_objects
from detection.coco.ids import identity, numbers_of
from detection.coco.keypoints import MISCOUNTED, keypoint_row, skeleton_entries, sound_keypoints
from detection.coco.meaning import check_crowd
from detection.coco.problems import Problems
from detection.coco.read import lists_of, read_coco
from detection.coco.segmentation import mask_area, mask_box, read_segmentation
from detection.evaluation.keypoints import sigmas_of
from detection.home import with_home
from detection.wording import of_kind

IMAGE_KEYS = ("height", "width", "file_name")
"""Keys of an image to keep, besides its ID."""

LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
"""Lists of categories that LVIS adds to an image."""

MASKLESS = "objects without a mask (not in the segm scores)"


def clean_ground_truth(
    ground_truth: Mapping[str, Any] | str | Path,
    masks: bool,
    keypoints: bool = False,
    sigmas: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return a checked copy of a COCO ground truth that the engines can score.

    The checks are those of training (:mod:`detection.coco`), with one difference. Where training drops an entry, this
    function raises an error, because a score of the rest would be a different number.

    The function makes these changes:

    * It numbers the annotations from 1. pycocotools treats ID 0 as "not matched", and loses one of two equal IDs.
    * It computes ``iscrowd``, ``area`` and ``bbox`` if they are missing or null.
    * It leaves out annotations of unlisted images and, with ``masks``, annotations without a segmentation. It warns.
    * It makes an annotation with ``ignore`` a crowd. pycocotools does not use this key.

    Args:
        ground_truth: a COCO dict or file.
        masks: keep segmentations, for scoring masks.
        keypoints: keep keypoints, as many for each object as the class with the most has, for scoring them.
        sigmas: sigma of each keypoint; the result has them as ``info.keypoint_sigmas``.

    Raises:
        ValueError: the data cannot be repaired: duplicate IDs, unknown categories, wrong structure, NaN or infinite
            coordinates, or an RLE that does not fit its image. The message has the file and the annotation ID.
    """
    if isinstance(ground_truth, str | Path):
        path = Path(with_home(ground_truth))
        problems, content = Problems(path, strict=True), read_coco(path)
    else:
        problems = Problems("ground truth", strict=True)
        content = lists_of(ground_truth, problems.path)
    image_numbers = numbers_of(content["images"], "image", problems)
    category_numbers = numbers_of(content["categories"], "category", problems)
    images, categories = [*image_numbers.values()], [*category_numbers.values()]
    number_of, label_of = ({one: k for k, one in enumerate(ids)} for ids in (image_numbers, category_numbers))
    skeletons = [skeleton_entries(entry, problems) if keypoints else {} for entry in content["categories"]]
    counts = [len(one.get("keypoints", ())) for one in skeletons]
    most = max(counts, default=0)
    if keypoints and not most:
        raise ValueError(f"{problems.path}: no category lists keypoints; add their names to score them")
    annotations: list[dict[str, Any]] = []
    maskless = 0
    for i, label, entry in collect_objects(content["annotations"], number_of, label_of, problems):
        clean = _clean_annotation(entry, content["images"][i], masks, problems)
        if clean is None:
            maskless += 1
            continue
        clean |= _clean_keypoints(entry, counts[label], most, problems) if keypoints else {}
        clean |= {"id": len(annotations) + 1, "image_id": images[i], "category_id": categories[label]}
        annotations.append(clean)
    lines = [problems.described(kind) for kind in problems.counts]
    if annotations and all(annotation["iscrowd"] for annotation in annotations):
        every = f"all {len(annotations)} objects are crowds" if len(annotations) > 1 else "the only object is a crowd"
        what = f"{every}: nothing can be scored, AP is n/a (-1 in pycocotools)"
        lines.append(f"{what}; set iscrowd to 0 where an annotation is one object")
    if maskless:
        lines.append(of_kind(maskless, MASKLESS))
    for line in lines:
        warnings.warn(f"{problems.path}: {line}", stacklevel=3)
    return {
        "info": {"keypoint_sigmas": sigmas_of(most, sigmas)} if keypoints else {},
        "images": [
            _clean_image(entry, number, category_numbers)
            for number, entry in zip(images, content["images"], strict=True)
        ],
        "categories": [
            {
                "id": number,
                "name": str(entry["name"]) if entry.get("name") is not None else category_name(entry, problems),
            }
            | ({"frequency": entry["frequency"]} if "frequency" in entry else {})
            | skeleton
            for number, entry, skeleton in zip(categories, content["categories"], skeletons, strict=True)
        ],
        "annotations": annotations,
    }


def _clean_annotation(
    entry: Mapping[str, Any], image: Mapping[str, Any], masks: bool, problems: Problems
) -> dict[str, Any] | None:
    """Return a clean annotation without IDs; None if masks are needed and it has none."""
    where, box, area = f"{problems.path}: annotation {entry.get('id')}", entry.get("bbox"), entry.get("area")
    outline = {"id": entry.get("id"), "segmentation": _plain(entry.get("segmentation"))}
    height = width = 0
    polygons: Sequence[Any] = ()
    rle = None
    if outline["segmentation"] and (masks or box is None or area is None):
        height, width = check_size(image, problems)
        polygons, rle = read_segmentation(outline, height, width, problems)
    if masks and not polygons and rle is None:
        return None
    if box is not None:
        box = _floats(box, entry, problems)
    elif polygons or rle is not None:
        box = mask_box(outline, height, width, problems) or [0.0, 0.0, 0.0, 0.0]
    else:
        raise ValueError(f"{where} has neither bbox nor segmentation; add one, or remove the annotation")
    if area is None:
        area = mask_area(polygons, rle, height, width)
        area = box[2] * box[3] if area is None else area
    try:
        area = float(area)
    except (TypeError, ValueError, OverflowError):
        area = math.nan
    if not math.isfinite(area):
        stated = ascii(entry.get("area"))[:40]
        raise ValueError(f"{where} has area {stated}; write a number, or remove the key so that it is computed")
    clean = {"bbox": box, "area": area, "iscrowd": int(check_crowd(entry, problems))}
    return clean | {"segmentation": rle or [[*map(float, polygon)] for polygon in polygons]} if masks else clean


def _clean_keypoints(entry: Mapping[str, Any], count: int, most: int, problems: Problems) -> dict[str, Any]:
    """Return ``keypoints``, with zeros for those that only other classes have, and ``num_keypoints``."""
    row = keypoint_row({**entry, "keypoints": _plain(entry.get("keypoints"))}, count, problems) or [0.0] * 3 * count
    points = np.zeros((1, most, 3))
    points[0, :count] = np.reshape(row, (-1, 3))
    points = sound_keypoints(points, [entry.get("id")], problems)
    labelled = int((points[..., 2] > 0).sum())
    if entry.get("num_keypoints", labelled) != labelled:
        problems.warn(MISCOUNTED, entry.get("id"))
    return {"keypoints": points.ravel().tolist(), "num_keypoints": labelled}


def is_scored(annotation: Mapping[str, Any]) -> bool:
    """Return whether an annotation of a clean ground truth must be found: no crowd, and not without keypoints."""
    return not annotation["iscrowd"] and annotation.get("num_keypoints", 1) > 0


def _floats(box: Any, entry: Mapping[str, Any], problems: Problems) -> list[float]:
    """Return the box as floats, if it can be scored; a box of area 0 can, but no detection matches it."""
    with suppress(TypeError, ValueError, OverflowError):  # check_box reports the problem
        box = [float(value) for value in box]
    check_box(box, entry, problems)
    if not all(map(math.isfinite, box)):
        problems.drop("boxes with NaN or infinite numbers (dropped)", entry.get("id"))
    if min(box[2:]) < 0:
        problems.drop("boxes of negative size (dropped)", entry.get("id"))
    return box


def _plain(segmentation: Any) -> Any:
    """Convert a segmentation to the form in a file: lists instead of arrays and tuples, without empty polygons."""
    if isinstance(segmentation, Mapping):
        return dict(segmentation) | {"size": _plain(segmentation.get("size"))}
    if isinstance(segmentation, np.ndarray):
        segmentation = segmentation.tolist()
    if not isinstance(segmentation, list | tuple):
        return segmentation
    if not segmentation or isinstance(segmentation[0], int | float):
        return [*segmentation]
    parts = map(_plain, segmentation)
    return [part for part in parts if not isinstance(part, list | array) or len(part)]


def _clean_image(entry: Mapping[str, Any], number: int, category_numbers: Mapping[int | str, int]) -> dict[str, Any]:
    """Return an image with integer sides, if the file has valid ones, and with LVIS's lists as category numbers."""
    image = {"id": number} | {key: entry[key] for key in IMAGE_KEYS if key in entry}
    for side in ("height", "width"):
        if isinstance(pixels := identity(entry.get(side)), int) and 0 < pixels < 2**63:
            image[side] = pixels
    for key in LVIS_KEYS:
        if isinstance(entry.get(key), list):
            known = category_numbers.get
            image[key] = [known(identity(one), one) for one in entry[key]]  # type: ignore[arg-type]
    return image
