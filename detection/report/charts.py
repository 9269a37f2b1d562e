"""Draw small charts as SVG text: sharp at any size, in the colours of the page, without a library in the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from detection.foreign import shown

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 260, 46, 38, 12, 12
NAMES, ROW, SIDE = 130, 24, 20
"""Sizes of a dot plot: width of the names, height of a row, and space on the right."""

Points = Sequence[tuple[float, float]]


def lines(
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    percent: bool = False,
    dots: bool = False,
) -> str:
    """Draw lines over the unit square, with a legend below.

    Args:
        series: points of each line, x and y in 0..1, by name.
        diagonal: draw where x equals y.
        percent: label the axes in percent.
        dots: mark the points.
    """
    parts = [_axes(x_label, y_label, 100 if percent else 1)]
    if diagonal:
        parts.append(f'<path class="guide" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>')
    for k, (name, points) in enumerate(series.items()):
        path = "".join(f"{'L' if n else 'M'}{_x(x)} {_y(y)}" for n, (x, y) in enumerate(points))
        parts.append(f'<path class="line c{k % 6}" d="{path}"><title>{escape(name)}</title></path>')
        if dots:
            marks = (f'<circle class="dot c{k % 6}" cx="{_x(x)}" cy="{_y(y)}" r="4"></circle>' for x, y in points)
            parts.extend(marks)
    legend = "".join(f'<span><i class="key c{k % 6}"></i>{escape(name)}</span>' for k, name in enumerate(series))
    title = f"{y_label} over {x_label}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def bar(share: float, tone: str = "c0") -> str:
    """Draw a horizontal bar for the cell of a table; ``share`` is its length, in 0..1."""
    share = min(max(share, 0.0), 1.0)
    return f'<span class="bar"><i class="fill {tone}" style="width:{100 * share:.1f}%"></i></span>'


def _axes(x_label: str, y_label: str, scale: int) -> str:
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="grid" d="M{_x(0)} {_y(tick)}H{_x(1)}M{_x(tick)} {_y(0)}V{_y(1)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{_y(tick) + 4}" text-anchor="end">{scale * tick:g}</text>')
        parts.append(f'<text x="{_x(tick)}" y="{_y(0) + 15}" text-anchor="middle">{scale * tick:g}</text>')
    parts.append(f'<text x="{_x(0.5)}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    middle = _y(0.5)
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _x(value: float) -> float:
    return round(LEFT + value * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float) -> float:
    return round(HEIGHT - BOTTOM - value * (HEIGHT - BOTTOM - TOP), 1)


@dataclass(frozen=True)
class Dot:
    """A row of a dot plot: a value and its interval; NaN: no value or no interval."""

    name: str
    value: float
    low: float
    high: float
    tone: str = ""
    """A CSS class for the colour."""


def dots(rows: Sequence[Dot], label: str) -> str:
    """Draw values with their intervals beside a line at zero, one row each.

    Args:
        rows: rows from top to bottom; the plot skips those without a value.
        label: name and unit of the values.
    """
    rows = [row for row in rows if math.isfinite(row.value)]
    if not rows:
        return ""
    bounds = [abs(v) for row in rows for v in (row.value, row.low, row.high) if math.isfinite(v)]
    step = _step(max(bounds))
    extent = step * max(1, math.ceil(max(bounds) / step))
    height = TOP + ROW * len(rows) + BOTTOM

    def place(value: float) -> float:
        return round(NAMES + (value / extent + 1) / 2 * (WIDTH - NAMES - SIDE), 1)

    parts, bottom = [], TOP + ROW * len(rows)
    for k in range(-round(extent / step), round(extent / step) + 1):
        x = place(k * step)
        parts.append(f'<path class="{"axis" if k == 0 else "grid"}" d="M{x} {TOP}V{bottom}"/>')
        sign = "+" if k > 0 else ""
        parts.append(f'<text x="{x}" y="{bottom + 15}" text-anchor="middle">{sign}{k * step:g}</text>')
    parts.append(f'<text x="{place(0)}" y="{height - 5}" text-anchor="middle">{escape(label)}</text>')
    for k, row in enumerate(rows):
        y = TOP + ROW * k + ROW // 2
        name = shown(row.name)
        parts.append(
            f'<text class="name" x="{NAMES - 10}" y="{y + 4}" text-anchor="end">{escape(shown(row.name, 16))}'
            f"<title>{escape(name)}</title></text>"
        )
        if math.isfinite(row.low):
            parts.append(f'<path class="line {row.tone}" d="M{place(row.low)} {y}H{place(row.high)}"/>')
        kind = "dot" if math.isfinite(row.low) else "hollow"
        hint = f"{name}: {row.value:+.1f}" + (f" ({row.low:+.1f} to {row.high:+.1f})" if kind == "dot" else "")
        title = f"<title>{escape(hint)}</title>"
        parts.append(f'<circle class="{kind} {row.tone}" cx="{place(row.value)}" cy="{y}" r="4.5">{title}</circle>')
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def _step(largest: float) -> float:
    """Return the distance of ticks, with at most four ticks on each side of zero."""
    steps = (s * 10.0**power for power in range(-2, 3) for s in (1, 2, 5))
    return next((step for step in steps if largest / step <= 4), 100.0)
