"""Fields beside COCO's that change what an annotation means.

The toolkit applies ``ignore``. It only counts the others, and reports them with the IDs. Tools write these fields
beside COCO's own or in ``attributes`` (CVAT), in lower or mixed case (Open Images).
"""

import math
from collections.abc import Mapping
from typing import Any

from detection.coco.flags import flag
from detection.coco.problems import Problems
from detection.coco.segmentation import mask_box

IGNORED = "objects with ignore 1 (taken as a crowd: neither learned nor scored)"
ROTATED = "rotated objects (not followed: bbox is taken as an upright box; write the upright box around the object)"

FIELDS = {
    "rotation": ROTATED,
    "angle": ROTATED,
    "rotation_angle": ROTATED,
    "difficult": "objects marked difficult (learned and scored like all others, unless ignore is 1)",
    "isgroupof": "objects marked as a group (not followed: learned and scored as one object; set iscrowd to 1)",
    "is_group_of": "objects marked as a group (not followed: learned and scored as one object; set iscrowd to 1)",
    "outside": "objects marked as outside (not followed: learned and scored like all others; remove such objects)",
    "occluded": "objects marked occluded (learned and scored like all others)",
    "occlusion": "objects marked occluded (learned and scored like all others)",
    "isoccluded": "objects marked occluded (learned and scored like all others)",
    "truncated": "objects marked truncated (learned and scored like all others)",
    "truncation": "objects marked truncated (learned and scored like all others)",
    "istruncated": "objects marked truncated (learned and scored like all others)",
}
"""For each field name in lower case, the kind of problem to count."""

HARMLESS = {FIELDS["occluded"], FIELDS["truncated"]}
"""Kinds that only ``rcnn doctor`` reports, because they are normal: COCO has occluded and truncated objects, too."""

_OWN = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints", "num_keypoints"}


def check_crowd(entry: Mapping[str, Any], problems: Problems) -> bool:
    """Return whether ``iscrowd`` or ``ignore`` makes an annotation a crowd.

    Raises:
        ValueError: ``iscrowd`` is neither 0 nor 1.
    """
    given = entry.get("iscrowd")
    crowd = False if given is None else flag(given)
    if crowd is None:
        raise ValueError(
            f"{problems.path}: annotation {entry.get('id')} has iscrowd {ascii(given)[:40]}; it must be 0 or 1"
        )
    if is_ignored(entry, problems) and not crowd:
        problems.warn(IGNORED, entry.get("id"))
        return True
    return crowd


def is_ignored(entry: Mapping[str, Any], problems: Problems) -> bool:
    """Return whether ``ignore`` excludes an annotation from training and evaluation."""
    given = entry.get("ignore")
    if given is None:
        return False
    ignored = flag(given)
    if ignored is None:
        problems.warn("objects whose ignore is neither 0 nor 1 (not followed)", entry.get("id"))
    return bool(ignored)


def count_fields(entry: Mapping[str, Any], height: int, width: int, problems: Problems) -> None:
    """Count the fields of an annotation that change its meaning, but that the toolkit does not apply.

    Args:
        entry: the annotation.
        height, width: size of its image.
        problems: counts the fields.
    """
    if entry.keys() <= _OWN:
        return
    attributes = entry.get("attributes")
    found = set()
    for fields in (entry, attributes if isinstance(attributes, Mapping) else {}):
        for name, value in fields.items():
            kind = FIELDS.get(name.lower() if isinstance(name, str) else "")
            if kind is not None and _is_marked(value, kind):
                found.add(kind)
    if isinstance(attributes, Mapping) and flag(attributes.get("ignore")):
        found.add("objects whose attributes have ignore (not followed; write it beside bbox, or set iscrowd to 1)")
    if ROTATED in found and _is_upright(entry, height, width, problems):
        found.remove(ROTATED)
    for kind in sorted(found):
        (problems.note if kind in HARMLESS else problems.warn)(kind, entry.get("id"))


def _is_marked(value: object, kind: str) -> bool:
    """Return whether a field is set: true, "1" or a number other than 0; for an angle, not a multiple of 180."""
    number = _number(value)
    if kind is ROTATED:
        return number is not None and min(number % 180, -number % 180) > 1e-3
    return bool(flag(value)) or (number is not None and number != 0)


def _number(value: object) -> float | None:
    """Return the value, or its text, as a finite float; else None."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_upright(entry: Mapping[str, Any], height: int, width: int, problems: Problems) -> bool:
    """Return whether the box is the upright box around the outline: then the polygon includes the rotation."""
    box = entry.get("bbox")
    if box is None:
        return True  # taken from the mask
    drawn = mask_box(entry, height, width, problems)
    if drawn is None or _is_rectangle(entry.get("segmentation"), drawn):
        return False
    return all(abs(a - b) < 2 for a, b in zip(_corners(box), _corners(drawn), strict=True))


def _is_rectangle(segmentation: Any, box: list[float]) -> bool:
    """Return whether the outline is just the box, which some tools write and which does not show the rotation."""
    if not isinstance(segmentation, list) or len(segmentation) != 1:
        return False
    (outline,) = segmentation
    x0, y0, x1, y1 = _corners(box)
    xs, ys = list(outline)[0::2], list(outline)[1::2]
    return all(x in (x0, x1) for x in xs) and all(y in (y0, y1) for y in ys)


def _corners(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
