"""How many detections of a class in an image are scored, and what more there is.

COCO scores the best 1, 10 and 100 detections of each class in an image. In an image with more objects of a class, a
perfect detector cannot reach AP 1.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from detection.wording import plural

Limits = tuple[int, int, int]

COCO_LIMITS: Limits = (1, 10, 100)
"""The largest is that of all AP numbers; recall is given at all three."""


def limits_up_to(most: int) -> Limits:
    """COCO's limits with another largest one.

    Raises:
        ValueError: not above 10, COCO's second limit.
    """
    if most <= COCO_LIMITS[1]:
        raise ValueError(f"max_detections {most} must be above 10, COCO's second limit; COCO takes 100")
    return (*COCO_LIMITS[:2], most)


def checked_limits(limits: Iterable[int]) -> Limits:
    """Three rising limits.

    Raises:
        ValueError: others.
    """
    found = tuple(limits)
    if len(found) != 3 or any(type(one) is not int for one in found) or not 0 < found[0] < found[1] < found[2]:
        raise ValueError(f"max_detections is {found}, but must be three rising whole numbers, as COCO's (1, 10, 100)")
    return found[0], found[1], found[2]


def beyond_limit(entries: Iterable[Mapping[str, Any]], limit: int) -> tuple[int, int]:
    """How many images have more entries of one class than the limit, and the most that an image has of one class.

    Args:
        entries: annotations or results; crowds do not count.
    """
    keys = ((one["image_id"], one["category_id"]) for one in entries if not one.get("iscrowd"))
    return beyond_limit_of(Counter(keys), limit)


def beyond_limit_of(counts: Mapping[tuple[int, int], int], limit: int) -> tuple[int, int]:
    """As :func:`beyond_limit`, from the counts by image id and category id."""
    images = {image for (image, _), count in counts.items() if count > limit}
    return len(images), max(counts.values(), default=0)


def limit_lines(iou_type: str, objects: tuple[int, int], found: tuple[int, int], limit: int, remedy: str) -> list[str]:
    """What to print, if an image has more than the limit; of ``objects`` and ``found`` as :func:`beyond_limit` gives.

    Args:
        remedy: how to raise the limit, with ``{most}`` for the number that is needed.
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
