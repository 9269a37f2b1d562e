"""The line that says where a run is, made for the width that there is."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detection.engine.pace import duration

SPARE = 5
"""Parts from this rank on go before the others move together."""


class Field(NamedTuple):
    """A part of the line.

    Args:
        rank: the parts of the highest rank go first where there is no room.
        long, short: two ways to write it; empty where there is nothing to say.
    """

    rank: float
    long: str
    short: str


def compose(fields: Sequence[Field], width: float = math.inf) -> str:
    """Write the fields in their order, shorter and then fewer of them where the width is less than they need."""
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
    """The fields of a training.

    Args:
        done: share of the run, 0 to 1.
        loss: None as long as there is none.
        speed: images per second, NaN if not known.
        left: seconds until the run ends, NaN if not known.
        parts: of the loss.
        bar: draw one.
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
    text = f"{name} {value:.3g}"
    return Field(rank, text, text)


def images(rank: float, speed: float) -> Field:
    """NaN where the speed is not known."""
    return Field(rank, "", "") if math.isnan(speed) else Field(rank, f"{speed:.3g} images/s", f"{speed:.3g} img/s")


def remaining(rank: float, seconds: float) -> Field:
    """NaN where it is not known."""
    text = "" if math.isnan(seconds) else f"ETA {duration(seconds)}"
    return Field(rank, text, text)


def gauge(share: float, width: int) -> str:
    """A bar of ``width`` characters."""
    full = min(width, int(width * max(0.0, share)))
    return "[" + "#" * full + "." * (width - full) + "]"
