"""Checks of a COCO file. They repair or drop an entry and count it, or raise an error if a repair would be a guess.

n images   m objects
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from detection.categories import Categories
from detection.coco.box_forms import likely_form
from detection.coco.flags import is_number
from detection.coco.ids import identity, numbers_of
from detection.coco.keypoints import skeleton_entries
from detection.coco.limits import FARTHEST, MAX_PIXELS, MIN_SIDE
from detection.coco.problems import Problems
from detection.coco.segmentation import mask_box
from detection.structures import IGNORE
from detection.wording import plural

OVER = "boxes that reach over their image (cut)"
UNLISTED = "annotations of an image that is not listed (dropped)"

LOOKED_AT = 1000
"""Number of masks, evenly spread over the file, that :func:`check_form` compares with their boxes."""

Entry = Mapping[str, Any]
Object = tuple[int, int, Entry]
"""(image index, label, annotation)."""


def check_categories(entries: Sequence[Entry], problems: Problems) -> tuple[Categories, dict[int | str, int]]:
    """Return the classes, and the label of each category ID in the file.

    Raises:
        ValueError: there are no classes, an ID is missing or occurs twice, or a class has no valid name or keypoints.
    """
    if not entries:
        raise ValueError(f"{problems.path}: categories is empty; list the classes as {{'id': 1, 'name': 'cat'}}")
    numbers = numbers_of(entries, "category", problems, IGNORE)
    names = [category_name(entry, problems) for entry in entries]
    categories = Categories.from_coco(
        [
            {"id": number, "name": name, **skeleton_entries(entry, problems)}
            for number, name, entry in zip(numbers.values(), names, entries, strict=True)
        ]
    )
    for name in sorted({n for n in names if names.count(n) > 1}):
        problems.warn("category names that occur twice", name)
    label = {number: k for k, number in enumerate(categories.ids)}
    return categories, {one: label[number] for one, number in numbers.items()}


def category_name(entry: Entry, problems: Problems) -> str:
    """Return the name of a class; a number becomes text.

    Raises:
        ValueError: the class has no valid name.
    """
    name = entry.get("name")
    if not isinstance(name, str | int | float) or not _is_text(str(name)):
        raise ValueError(f'{problems.path}: category {ascii(entry)[:80]} has no valid name; add "name" as text')
    return str(name)


def check_images(
    entries: Sequence[Entry], problems: Problems, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray, list[str], dict[int | str, int]]:
    """Check the images of a file.

    Returns:
        IDs (n,) int64; heights and widths (n, 2) int64; file names; and the index of each ID in the file.

    Raises:
        ValueError: an image lacks an ID, a name or a size, an ID occurs twice, or an image exceeds ``max_pixels``.
    """
    ids = numbers_of(entries, "image", problems, IGNORE)
    names: set[str] = set()
    sizes = np.zeros((len(entries), 2), dtype=np.int64)
    for k, (one, entry) in enumerate(zip(ids, entries, strict=True)):
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{problems.path}: image {one} has no file_name; add its path below the image folder")
        if "\0" in name or not _is_text(name):
            raise ValueError(
                f"{problems.path}: image {one} has file_name {name!a}, which is not a valid file name; correct it"
            )
        if name in names:
            problems.warn("images with the same file as an earlier image id", one)
        names.add(name)
        height, width = check_size(entry, problems)
        if height * width > max_pixels:
            raise ValueError(
                f"{problems.path}: image {one} is {width} x {height}, more than {max_pixels} pixels; cut it into "
                "tiles, or raise data.max_pixels"
            )
        sizes[k] = height, width
    number_of = {one: k for k, one in enumerate(ids)}
    return np.array([*ids.values()], dtype=np.int64), sizes, [entry["file_name"] for entry in entries], number_of


def check_size(entry: Entry, problems: Problems) -> tuple[int, int]:
    """Return (height, width) of an image; 124.0 and "124" are valid, too, because some tools write them.

    Raises:
        ValueError: a side is not a positive integer.
    """
    height, width = identity(entry.get("height")), identity(entry.get("width"))
    for side, pixels in (("height", height), ("width", width)):
        if not isinstance(pixels, int) or pixels < 1 or isinstance(entry[side], bool):
            raise ValueError(
                f"{problems.path}: image {entry['id']} has {side} {entry.get(side)!r}; it must be a positive integer"
            )
    return height, width  # type: ignore[return-value]


def collect_objects(
    entries: Sequence[Entry], number_of: dict[int | str, int], label_of: dict[int | str, int], problems: Problems
) -> list[Object]:
    """Return every object whose image is listed, in the file's order.

    Raises:
        ValueError: objects have a class that is not listed; the message has their IDs.
    """
    unknown = []
    seen: set[Any] = set()
    objects = []
    for entry in entries:
        one, category, image = entry.get("id"), entry.get("category_id"), entry.get("image_id")
        if isinstance(one, int | str):
            if one in seen:
                problems.warn("annotation ids that occur twice (renumbered)", one)
            seen.add(one)
        number = number_of.get(image if type(image) is int else identity(image))  # type: ignore[arg-type]
        if number is None:
            problems.warn(UNLISTED, one)
            continue
        label = label_of.get(category if type(category) is int else identity(category))  # type: ignore[arg-type]
        if label is None:
            unknown.append((one, category))
        else:
            objects.append((number, label, entry))
    if unknown:
        pairs = ", ".join(f"{one} (category {category!a})"[:80] for one, category in unknown[:5])
        raise ValueError(
            f"{problems.path}: {plural(len(unknown), 'annotation has', 'annotations have')} a category_id that is not "
            f"in categories: {pairs}; add the category or remove the annotations"
        )
    return objects


def check_boxes(objects: Sequence[Object], sizes: np.ndarray, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    """Return the file's boxes, (m, 4) float64 XYWH, and which of them are usable, (m,) bool.

    Raises:
        ValueError: a box is not a list of four numbers.
    """
    numbers = np.array([i for i, _, _ in objects], dtype=np.int64)
    xywh = _boxes(objects, sizes, problems)
    limit = sizes[numbers][:, [1, 0, 1, 0]].astype(np.float64).reshape(-1, 4)  # width, height, twice
    with np.errstate(invalid="ignore", over="ignore"):
        xyxy = corners(xywh)
        clipped = np.clip(xyxy, 0, limit)
        finite = np.isfinite(xyxy).all(axis=1)
        flat = finite & (xywh[:, 2:] <= 0).any(axis=1)
        sides = clipped[:, 2:] - clipped[:, :2]
        outside = finite & ~flat & (sides <= 0).any(axis=1)
        small = finite & ~flat & ~outside & (sides < MIN_SIDE).any(axis=1)
        # A difference up to 0.001 pixels is a rounding error, not a box that extends beyond the border.
        partly = finite & ~flat & ~outside & ~small & (np.abs(clipped - xyxy) > 1e-3).any(axis=1)
        far = partly & (np.abs(xyxy) > FARTHEST).any(axis=1)
    # The area of a box with such sides would overflow in the evaluation.
    near = np.clip(xyxy[far], -FARTHEST, FARTHEST)
    xywh[far] = np.concatenate([near[:, :2], near[:, 2:] - near[:, :2]], axis=1)
    for kind, rows_of_kind in [
        ("boxes with NaN or infinite numbers (dropped)", ~finite),
        ("boxes without area (dropped)", flat),
        ("boxes outside their image (dropped)", outside),
        (f"boxes with a side under {MIN_SIDE} pixels (dropped)", small),
        (OVER, partly),
    ]:
        problems.totals[kind] = len(objects)
        for k in np.flatnonzero(rows_of_kind).tolist():
            problems.warn(kind, objects[k][2].get("id"))
    return xywh, finite & ~flat & ~outside & ~small


def check_form(objects: Sequence[Object], xywh: np.ndarray, sizes: np.ndarray, problems: Problems) -> None:
    """Add a hint to ``problems`` if the boxes are likely not in COCO's format.

    Args:
        objects: m objects.
        xywh: (m, 4) from :func:`check_boxes`.
        sizes: (n, 2) height, width of the images.
        problems: gets the hint.
    """
    masks, areas = np.full((len(objects), 4), np.nan), np.full(len(objects), np.nan)
    for k in range(0, len(objects), max(1, len(objects) // LOOKED_AT)):
        masks[k] = _mask_corners(objects[k][2], sizes[objects[k][0]], problems)
    for k, (_, _, entry) in enumerate(objects):
        if not entry.get("segmentation") and is_number(entry.get("area")):
            areas[k] = entry["area"]
    numbers = np.array([i for i, _, _ in objects], dtype=np.int64)
    hint = likely_form(xywh, sizes[numbers][:, ::-1].astype(np.float64), masks, areas)
    if hint is not None:
        problems.hints.append(hint)


def _mask_corners(entry: Entry, size: np.ndarray, problems: Problems) -> np.ndarray | float:
    """Return (4,) left, top, right, bottom of a mask; NaN if there is no usable mask."""
    try:
        height, width = size.tolist()
        box = mask_box(entry, height, width, problems)
    except ValueError:
        return np.nan  # the segmentation reader reports it later, if the box is usable
    return np.nan if box is None else corners(np.array([box]))[0]


def corners(xywh: np.ndarray) -> np.ndarray:
    """Convert XYWH to XYXY."""
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _boxes(objects: Sequence[Object], sizes: np.ndarray, problems: Problems) -> np.ndarray:
    rows: list[Any] = [entry.get("bbox") for _, _, entry in objects]
    if {*map(type, rows)} == {list} and {*map(len, rows)} == {4} and {*map(type, chain(*rows))} <= {int, float}:
        try:
            return np.fromiter(chain(*rows), dtype=np.float64, count=4 * len(rows)).reshape(-1, 4)
        except OverflowError:  # an integer of more than 1023 bits
            pass
    for k, (i, _, entry) in enumerate(objects):
        if rows[k] is None:
            height, width = sizes[i].tolist()
            rows[k] = mask_box(entry, height, width, problems)
            if rows[k] is None and "bbox" not in entry:
                problems.warn("annotations with neither a box nor a mask (dropped)", entry.get("id"))
                rows[k] = [0.0, 0.0, 0.0, 0.0]
        check_box(rows[k], entry, problems)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def check_box(box: object, entry: Entry, problems: Problems) -> None:
    """Check that a box is a list of four numbers.

    Raises:
        ValueError: it is not; the message has the annotation's ID.
    """
    if type(box) is not list or len(box) != 4 or not all(is_number(value) for value in box):
        raise ValueError(
            f"{problems.path}: annotation {entry.get('id')} has bbox {ascii(box)[:60]}{_other_form(box)}; it must be "
            "four numbers: left, top, width, height"
        )


def _is_text(name: str) -> bool:
    """Return whether UTF-8 can encode the text; JSON may contain half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _other_form(box: object) -> str:
    """Return a guess at what a bbox without four numbers is."""
    guesses = {5: " (a rotated box?)", 8: " (the corners of a rotated box?)"}
    return guesses.get(len(box), "") if isinstance(box, list) else ""
