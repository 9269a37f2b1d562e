"""Limits of scored detections per class and image, and warnings if an image exceeds them.

COCO scores the best 1, 10 and 100 detections of each class in an image. If an image has more objects of a class, even
a perfect detector cannot reach an AP of 1.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from detection.wording import plural

Limits = tuple[int, int, int]

COCO_LIMITS: Limits = (1, 10, 100)
"""All AP numbers use the largest limit; there is one recall for each limit."""


COCO_KEYPOINT_LIMIT = 20
"""Detections per class and image that COCO scores by their keypoints."""


def scored_limits(limits: Limits, iou_type: str) -> tuple[int, ...]:
    """Return the limits for an IoU type; keypoints have one: COCO's, unless the largest limit is not COCO's."""
    if iou_type != "keypoints":
        return limits
    return (COCO_KEYPOINT_LIMIT if limits[-1] == COCO_LIMITS[-1] else limits[-1],)


def limits_up_to(most: int) -> Limits:
    """Return COCO's limits with another largest one.

    Raises:
        ValueError: the limit is not above 10, COCO's second limit.
    """
    if most <= COCO_LIMITS[1]:
        raise ValueError(f"max_detections {most} must be above 10, COCO's second limit; COCO's default is 100")
    return (*COCO_LIMITS[:2], most)


def checked_limits(limits: Iterable[int]) -> Limits:
    """Return the limits as a tuple.

    Raises:
        ValueError: they are not three increasing positive integers.
    """
    found = tuple(limits)
    if len(found) != 3 or any(type(one) is not int for one in found) or not 0 < found[0] < found[1] < found[2]:
        raise ValueError(f"max_detections is {found}, but must be three increasing integers, such as (1, 10, 100)")
    return found[0], found[1], found[2]


def beyond_limit(entries: Iterable[Mapping[str, Any]], limit: int) -> tuple[int, int]:
    """Count the images that have more entries of one class than the limit.

    Args:
        entries: annotations or results; crowds do not count.
        limit: number of entries per class and image.

    Returns:
        The number of such images, and the largest number of entries of one class in an image.
    """
    keys = ((one["image_id"], one["category_id"]) for one in entries if not one.get("iscrowd"))
    return beyond_limit_of(Counter(keys), limit)


def beyond_limit_of(counts: Mapping[tuple[int, int], int], limit: int) -> tuple[int, int]:
    """Do the same as :func:`beyond_limit` for counts by (image ID, category ID)."""
    images = {image for (image, _), count in counts.items() if count > limit}
    return len(images), max(counts.values(), default=0)


def limit_lines(iou_type: str, objects: tuple[int, int], found: tuple[int, int], limit: int, remedy: str) -> list[str]:
    """Return warnings for images that exceed the limit.

    Args:
        iou_type: "bbox", "segm" or "keypoints".
        objects: result of :func:`beyond_limit` for the annotations.
        found: result of :func:`beyond_limit` for the detections.
        limit: number of scored detections per class and image.
        remedy: how the user can raise the limit; ``{most}`` stands for the necessary number.
    """
    lines = []
    if objects[0]:
        lines.append(
            f"{iou_type}: {plural(objects[0], 'image has', 'images have')} more than {limit} objects of one class "
            f"(at most {objects[1]}), but only the best {limit} detections of a class are scored; to score more: "
            f"{remedy.format(most=objects[1])}"
        )
    if found[0]:
        lines.append(
            f"{iou_type}: {plural(found[0], 'image has', 'images have')} more than {limit} detections of one class "
            f"(at most {found[1]}); those after the best {limit} are not scored"
        )
    return lines
