"""What is checked in a COCO file: mended or dropped with a count, refused where a mending would be a guess.

n images   m objects
"""

from typing import Any

import numpy as np

from detection.coco.flags import flag
from detection.data.box_forms import likely_form
from detection.data.coco_file import identity
from detection.data.image import MAX_PIXELS
from detection.data.meaning import IGNORED, is_ignored
from detection.data.report import Report
from detection.data.segmentation import FARTHEST, SegmentationBuilder
from detection.structures import IGNORE, Categories

MIN_SIDE = 0.1
"""Objects whose box, cut at the image, has a shorter side (in pixels) are dropped: nothing could find them."""

OVER = "boxes that reach over their image (cut)"

LOOKED_AT = 1000
"""Masks that the form of the boxes is compared with, evenly spread over the file."""

Entry = dict[str, Any]


def check_categories(entries: list[Entry], report: Report) -> tuple[Categories, dict[int | str, int]]:
    """The classes, and the label of each id in the file.

    Raises:
        ValueError: no classes, an id that is none or occurs twice, a name that is no text.
    """
    if not entries:
        raise ValueError(f"{report.path}: categories is empty; list the classes as {{'id': 1, 'name': 'cat'}}")
    ids: list[int | str] = []
    for entry in entries:
        one, name = identity(entry.get("id")), entry.get("name")
        if one is None or not isinstance(name, str) or not _is_text(name):
            raise ValueError(f"{report.path}: category {ascii(entry)[:80]} needs an integer id and a name")
        ids.append(one)
    if len(set(ids)) < len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1}, key=str)
        raise ValueError(f"{report.path}: category ids {twice[:5]} occur twice; give each class its own")
    numbers = _numbered(
        ids, "category ids that are words, -1 or beyond 64 bits (numbered from 1 in the file's order)", report
    )
    named = [{"id": number, "name": entry["name"]} for number, entry in zip(numbers, entries, strict=True)]
    categories = Categories.from_coco(named)
    for name in sorted({n for n in categories.names if categories.names.count(n) > 1}):
        report.warn("category names that occur twice", name)
    label = {number: k for k, number in enumerate(categories.ids)}
    return categories, {one: label[number] for one, number in zip(ids, numbers, strict=True)}


def check_images(
    entries: list[Entry], report: Report, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray, list[str], dict[int | str, int]]:
    """(n,) int64 ids, (n, 2) int64 heights and widths, file names, and the number of each id in the file.

    Raises:
        ValueError: an image without id, name or size, an id twice, more than ``max_pixels``.
    """
    number_of: dict[int | str, int] = {}
    names: set[str] = set()
    sizes = np.zeros((len(entries), 2), dtype=np.int64)
    for k, entry in enumerate(entries):
        one, name = identity(entry.get("id")), entry.get("file_name")
        if one is None:
            raise ValueError(f"{report.path}: image {ascii(entry)[:80]} needs an integer id")
        if one in number_of:
            raise ValueError(f"{report.path}: image id {one} occurs twice; give each image its own")
        number_of[one] = k
        if not isinstance(name, str) or not name:
            raise ValueError(f"{report.path}: image {one} has no file_name; give its path below the image folder")
        if "\0" in name or not _is_text(name):
            raise ValueError(f"{report.path}: image {one} has file_name {name!a}, which no file can have; correct it")
        if name in names:
            report.warn("images whose file is listed before under another id", one)
        names.add(name)
        height, width = (_pixels(entry, side, report) for side in ("height", "width"))
        if height * width > max_pixels:
            raise ValueError(
                f"{report.path}: image {one} is {width} x {height}, more than {max_pixels} pixels; cut it into tiles, "
                "or raise data.max_pixels"
            )
        sizes[k] = height, width
    kind = "image ids that are words, -1 or beyond 64 bits (all numbered from 1 in the file's order)"
    ids = np.array(_numbered(list(number_of), kind, report), dtype=np.int64)
    return ids, sizes, [entry["file_name"] for entry in entries], number_of


def collect_objects(
    entries: list[Entry], number_of: dict[int | str, int], label_of: dict[int | str, int], report: Report
) -> list[tuple[int, int, Entry]]:
    """(image number, label, entry) of every object whose image exists, by image, else in the file's order.

    Raises:
        ValueError: objects of classes that are not listed, with their ids.
    """
    unknown = []
    seen: set[Any] = set()
    objects = []
    for entry in entries:
        one = entry.get("id")
        if isinstance(one, int | str):
            if one in seen:
                report.warn("annotation ids that occur twice (numbered anew)", one)
            seen.add(one)
        category, image = entry.get("category_id"), entry.get("image_id")
        label = label_of.get(identity(category))  # type: ignore[arg-type]
        if label is None:
            unknown.append((one, category))
            continue
        number = number_of.get(identity(image))  # type: ignore[arg-type]
        if number is None:
            report.warn("annotations of images that are not listed (dropped)", one)
        else:
            objects.append((number, label, entry))
    if unknown:
        pairs = ", ".join(f"{one} (category {category!a})"[:80] for one, category in unknown[:5])
        raise ValueError(
            f"{report.path}: {len(unknown)} annotations have a category_id that is not in categories: {pairs}; "
            "add the category or remove the annotations"
        )
    objects.sort(key=lambda triple: triple[0])
    return objects


def check_boxes(
    objects: list[tuple[int, int, Entry]], sizes: np.ndarray, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """XYWH (m, 4) float64 as the file has them, and (m,) bool which are usable.

    Raises:
        ValueError: a box that is not four numbers.
    """
    rows: list[list[float]] = []
    for i, _, entry in objects:
        box = entry.get("bbox")
        if box is None:
            box = SegmentationBuilder.box(report.path, entry, *(int(side) for side in sizes[i]))
            if box is None and "bbox" not in entry:
                report.warn("annotations with neither a box nor a mask (dropped)", entry.get("id"))
                box = [0.0, 0.0, 0.0, 0.0]
        if type(box) is not list or len(box) != 4 or not all(_is_number(value) for value in box):
            raise ValueError(
                f"{report.path}: annotation {entry.get('id')} has bbox {ascii(box)[:60]}{_other_form(box)}; it must be "
                "four numbers: left, top, width, height"
            )
        rows.append(box)
    xywh = np.array(rows, dtype=np.float64).reshape(-1, 4)
    numbers = np.array([i for i, _, _ in objects], dtype=np.int64)
    limit = sizes[numbers][:, [1, 0, 1, 0]].astype(np.float64).reshape(-1, 4)  # width, height, twice
    with np.errstate(invalid="ignore", over="ignore"):
        xyxy = corners(xywh)
        clipped = np.clip(xyxy, 0, limit)
        finite = np.isfinite(xyxy).all(axis=1)
        flat = finite & (xywh[:, 2:] <= 0).any(axis=1)
        sides = clipped[:, 2:] - clipped[:, :2]
        outside = finite & ~flat & (sides <= 0).any(axis=1)
        small = finite & ~flat & ~outside & (sides < MIN_SIDE).any(axis=1)
        # A thousandth of a pixel is rounding, not a box that reaches over the border.
        partly = finite & ~flat & ~outside & ~small & (np.abs(clipped - xyxy) > 1e-3).any(axis=1)
        far = partly & (np.abs(xyxy) > FARTHEST).any(axis=1)
    # An area of such sides would overflow in the evaluation.
    near = np.clip(xyxy[far], -FARTHEST, FARTHEST)
    xywh[far] = np.concatenate([near[:, :2], near[:, 2:] - near[:, :2]], axis=1)
    for kind, rows_of_kind in [
        ("boxes that are not finite (dropped)", ~finite),
        ("boxes without area (dropped)", flat),
        ("boxes outside their image (dropped)", outside),
        (f"boxes with a side under {MIN_SIDE} pixels (dropped)", small),
        (OVER, partly),
    ]:
        report.totals[kind] = len(objects)
        for k in rows_of_kind.nonzero()[0].tolist():
            report.warn(kind, objects[k][2].get("id"))
    return xywh, finite & ~flat & ~outside & ~small


def check_form(objects: list[tuple[int, int, Entry]], xywh: np.ndarray, sizes: np.ndarray, report: Report) -> None:
    """Report the form that the boxes are likely in, if it is not COCO's.

    Args:
        xywh: (m, 4) from :func:`check_boxes`.
    """
    masks, areas = np.full((len(objects), 4), np.nan), np.full(len(objects), np.nan)
    for k in range(0, len(objects), max(1, len(objects) // LOOKED_AT)):
        masks[k] = _mask_corners(objects[k][2], sizes[objects[k][0]], report)
    for k, (_, _, entry) in enumerate(objects):
        if not entry.get("segmentation") and _is_number(entry.get("area")):
            areas[k] = entry["area"]
    numbers = np.array([i for i, _, _ in objects], dtype=np.int64)
    hint = likely_form(xywh, sizes[numbers][:, ::-1].astype(np.float64), masks, areas)
    if hint is not None:
        report.hints.append(hint)


def _mask_corners(entry: Entry, size: np.ndarray, report: Report) -> np.ndarray | float:
    """(4,) left, top, right, bottom of a mask; NaN without a usable one."""
    try:
        box = SegmentationBuilder.box(report.path, entry, *size.tolist())
    except ValueError:
        return np.nan  # reported where it is read, if its box is used
    return np.nan if box is None else corners(np.array([box]))[0]


def check_crowd(entry: Entry, report: Report) -> bool:
    """Whether an annotation is a crowd, by ``iscrowd`` or by ``ignore``.

    Raises:
        ValueError: ``iscrowd`` is neither 0 nor 1.
    """
    given = entry.get("iscrowd")
    crowd = False if given is None else flag(given)
    if crowd is None:
        raise ValueError(
            f"{report.path}: annotation {entry.get('id')} has iscrowd {ascii(given)[:40]}; it must be 0 or 1"
        )
    if is_ignored(entry, report) and not crowd:
        report.warn(IGNORED, entry.get("id"))
        return True
    return crowd


def corners(xywh: np.ndarray) -> np.ndarray:
    """XYWH to XYXY."""
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _numbered(ids: list[int | str], kind: str, report: Report) -> list[int]:
    """The ids if all can be kept: what is padded has the id -1, and tensors hold 64 bits. Else 1, 2, ..."""
    bad = [one for one in ids if not isinstance(one, int) or one == IGNORE or not -(2**63) <= one < 2**63]
    for one in bad:
        report.warn(kind, one)
    return list(range(1, len(ids) + 1)) if bad else ids  # type: ignore[return-value]


def _pixels(entry: Entry, side: str, report: Report) -> int:
    """A side of an image, which tools also write as 124.0 or "124"."""
    given = entry.get(side)
    pixels = identity(given)
    if not isinstance(pixels, int) or pixels < 1:
        raise ValueError(f"{report.path}: image {entry['id']} has {side} {given!r}; give it in pixels")
    return pixels


def _is_text(name: str) -> bool:
    """Whether it can be written: JSON may hold halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _other_form(box: object) -> str:
    """What a bbox that is not four numbers may be."""
    count = len(box) if isinstance(box, list) else 0
    return {5: " (a rotated box?)", 8: " (the corners of a rotated box?)"}.get(count, "")


def _is_number(value: object) -> bool:
    # An integer of more than 1023 bits is none that a float could hold.
    return type(value) is float or (type(value) is int and abs(value) >> 1023 == 0)
