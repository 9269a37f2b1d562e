"""Which heads go together in one detector."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any


def check_alone(heads: Sequence[str], two_stage: Mapping[str, tuple[Any, Any]], **optional: object) -> None:
    """Raise a ValueError for settings of heads that a detector with one head does not have.

    Args:
        heads: names of the heads that were given; the first one makes the detector.
        two_stage: for each head of a two-stage detector, its config or None, and its default.
        optional: further heads, or None.
    """
    others = list(heads[1:])
    for name, (given, default) in two_stage.items():
        others += [name] if given is not None and not _same(asdict(given), asdict(default)) else []
    others += [name for name, given in optional.items() if given is not None]
    if others:
        name, settings = f"model.{heads[0]}", ", ".join(f"model.{other}" for other in others)
        raise ValueError(f"{name} makes a detector without {settings}; leave {settings} out, or set {name} to null")


def _same(one: Any, other: Any) -> bool:
    """Compare plain values; a list equals a tuple, as parsers make lists."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
