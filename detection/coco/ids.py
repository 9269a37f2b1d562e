"""Read the IDs of images, categories and annotations, by one rule for all readers."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from detection.foreign import shown

if TYPE_CHECKING:
    from detection.coco.problems import Problems

INEXACT = "ids written as decimals beyond 2**53, which are not exact (write whole numbers)"

_EXACT = 2**53


def identity(value: object) -> int | str | None:
    """Return the normalised form of an ID: 17, 17.0 and "17" are equal. Return None if the value is not an ID."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and value:
        digits = value.removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) < 20 else value
    return index(value) if hasattr(value, "__index__") else None  # a NumPy integer


def numbers_of(
    entries: Sequence[Mapping[str, Any]], what: str, problems: "Problems", reserved: int | None = None
) -> dict[int | str, int]:
    """Return an integer for each ID, in the file's order.

    If all IDs are 64-bit integers, they stay as they are. If one is text, too large or ``reserved``, all entries are
    numbered 1, 2, ... instead.

    Args:
        entries: images or categories.
        what: "image" or "category", for messages.
        problems: counts the problems.
        reserved: an integer with another meaning, which no ID may have.

    Raises:
        ValueError: an entry has no ID, an ID occurs twice, or, if ``problems.strict``, an ID is not exact.
    """
    ids: dict[int | str, int] = {}
    bad = []
    for entry in entries:
        one = identity(entry.get("id"))
        if one is None:
            raise ValueError(f"{problems.path}: {what} {ascii(entry)[:80]} has no valid id; add an integer id")
        if one in ids:
            raise ValueError(f"{problems.path}: {what} id {shown(one)} occurs twice; give each {what} its own id")
        if not isinstance(one, int) or one == reserved or not -(2**63) <= one < 2**63:
            bad.append(one)
        elif not -_EXACT < one < _EXACT and isinstance(entry["id"], float):
            if problems.strict:
                raise ValueError(f"{problems.path}: {what} id {entry['id']!r} is not exact; write it as an integer")
            problems.warn(INEXACT, one)
        ids[one] = one  # type: ignore[assignment]
    besides = f", {reserved}" if reserved is not None else ""
    kind = f"{what} ids that are text{besides} or beyond 64 bits (all numbered from 1 in the file's order)"
    for one in bad:
        problems.warn(kind, one)
    return dict(zip(ids, range(1, len(ids) + 1), strict=True)) if bad else ids  # type: ignore[return-value]
