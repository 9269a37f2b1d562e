"""Ids of images, categories and annotations: one rule for all who read them."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from detection.foreign import shown

if TYPE_CHECKING:
    from detection.coco.problems import Problems

INEXACT = "ids written as decimals beyond 2**53, which are not exact (write whole numbers)"

_EXACT = 2**53


def identity(value: object) -> int | str | None:
    """An id as it is compared: 17, 17.0 and "17" are one; None for what is no id."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and value:
        digits = value.removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) < 20 else value
    return index(value) if hasattr(value, "__index__") else None  # NumPy's


def numbers_of(
    entries: Sequence[Mapping[str, Any]], what: str, problems: "Problems", reserved: int | None = None
) -> dict[int | str, int]:
    """By id, in the file's order, the number that stands for it: the id, or 1, 2, ... if one cannot be kept.

    Words cannot, nor can whole numbers beyond 64 bits.

    Args:
        what: "image" or "category".
        reserved: a number with another meaning, which cannot be kept either.

    Raises:
        ValueError: an entry without id, or an id twice; where ``problems`` are strict, an id that is not exact.
    """
    ids: dict[int | str, int] = {}
    bad = []
    for entry in entries:
        one = identity(entry.get("id"))
        if one is None:
            raise ValueError(f"{problems.path}: {what} {ascii(entry)[:80]} needs an integer id")
        if one in ids:
            raise ValueError(f"{problems.path}: {what} id {shown(one)} occurs twice; give each {what} its own")
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
