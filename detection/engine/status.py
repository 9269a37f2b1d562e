"""Compose the status line of a run for a given width."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detection.engine.pace import duration

SPARE = 5
"""Fields of this rank or higher are removed before the gaps between the other fields become narrower."""


class Field(NamedTuple):
    """A part of the status line.

    Args:
        rank: if there is no room, the fields of the highest rank are removed first.
        long, short: two forms of the text; an empty long form removes the field.
    """

    rank: float
    long: str
    short: str


def compose(fields: Sequence[Field], width: float = math.inf) -> str:
    """Return a line with the fields in order; use short forms, then fewer fields, until it fits into the width."""
    kept = [field for field in fields if field.long]
    while True:
        ways = [("  ", 1), ("  ", 2), (" ", 2)]
        for gap, form in ways[:2] if any(field.rank >= SPARE for field in kept) else ways:
            line = gap.join(str(field[form]) for field in kept)
            if len(line) <= width:
                return line
        if len(kept) == 1:
            return line[: int(width)]
        kept.remove(max(kept, key=lambda field: field.rank))


def training(
    place: Field,
    done: float,
    loss: float | None,
    lr: float,
    speed: float,
    left: float,
    parts: Mapping[str, float],
    bar: bool = True,
) -> list[Field]:
    """Return the fields for a training.

    Args:
        place: field with the epoch or iteration.
        done: finished fraction of the run, 0 to 1.
        loss: total loss; None before the first one.
        lr: learning rate.
        speed: images per second; NaN if unknown.
        left: seconds until the run ends; NaN if unknown.
        parts: terms of the loss by name.
        bar: add a progress bar.
    """
    return [
        Field(5, gauge(done, 20), gauge(done, 10)) if bar and math.isfinite(done) else Field(5, "", ""),
        place,
        Field(2, "", "") if loss is None else number(2, "loss", loss),
        number(4, "lr", lr),
        images(3, speed),
        remaining(1, left),
        *(number(6 + i, name, value) for i, (name, value) in enumerate(parts.items())),
    ]


def number(rank: float, name: str, value: float) -> Field:
    """Return a field with a name and a number of three significant digits."""
    text = f"{name} {value:.3g}"
    return Field(rank, text, text)


def images(rank: float, speed: float) -> Field:
    """Return a field with the images per second; NaN: an empty field."""
    return Field(rank, "", "") if math.isnan(speed) else Field(rank, f"{speed:.3g} images/s", f"{speed:.3g} img/s")


def remaining(rank: float, seconds: float) -> Field:
    """Return a field with the remaining time; NaN: an empty field."""
    text = "" if math.isnan(seconds) else f"ETA {duration(seconds)}"
    return Field(rank, text, text)


def gauge(share: float, width: int) -> str:
    """Return a progress bar with ``width`` characters between brackets, for a fraction from 0 to 1."""
    full = min(width, int(width * max(0.0, share)))
    return "[" + "#" * full + "." * (width - full) + "]"
