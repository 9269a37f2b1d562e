"""Write a comparison as one HTML page: plots and tables of the differences, and the images that changed most."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from detection.evaluation.percent import percent
from detection.foreign import shown
from detection.report.analysis import KINDS, ONE
from detection.report.changed import ChangedImage
from detection.report.charts import Dot, dots
from detection.report.compare import Difference, interval, signed
from detection.report.frame import frame
from detection.report.page import image, legend, script, stretch_note, table
from detection.wording import plural

TONES = {"better": "c2", "worse": "c4"}
NAMES = KINDS | {"classification": "Classification", "semantic": "Semantic maps", "panoptic": "Panoptic maps"}
SCORE = {"classification": "accuracy or AP", "semantic": "IoU", "panoptic": "PQ"}
MOST_DOTS = 30
"""Classes in a plot: those with the largest differences."""


def page(
    first: str, second: str, found: Mapping[str, Sequence[Difference]], changed: Sequence[ChangedImage] = ()
) -> str:
    """Write the page of a comparison.

    Args:
        first: name of the evaluation A.
        second: name of the evaluation B.
        found: from :func:`~detection.report.compare.compare`.
        changed: from :func:`~detection.report.changed.changed_images`.
    """
    parts = []
    for key, differences in found.items():
        kind, what = key.split("/")
        if what == "classes":
            parts.append(
                _part(f"{NAMES[kind]}: {SCORE.get(kind, 'AP')} by class", "class", _by_difference(differences))
            )
        else:
            parts.append(_part(f"{NAMES[kind]}: metrics", "metric", differences))
    parts.append(
        '<p class="note">Numbers are in percent. The 95% intervals of B − A are from bootstrap samples of the images, '
        "the same ones for both. The page says better or worse where the interval does not contain 0. "
        "– and a hollow dot mean that too few images have such objects.</p>"
    )
    parts.append(_changed(changed) if changed else "")
    head = f'<p class="lead">{escape(summary(found))}</p><p>A: {escape(first)}<br>B: {escape(second)}</p>'
    title = f"Comparison: {shown(_last(first))} and {shown(_last(second))}"
    return frame(title, "".join(parts), head, script("page.js") if changed else "")


def summary(found: Mapping[str, Sequence[Difference]]) -> str:
    """Summarise a comparison in one sentence."""
    parts = []
    for key, differences in found.items():
        kind, what = key.split("/")
        if what == "numbers":
            AP = differences[0]
            name = f"{ONE[kind]} AP" if kind in ONE else AP.name
            spread = "" if math.isnan(AP.low) else f" (95% interval {interval(AP)})"
            verdict = AP.verdict or ("no clear difference" if spread else "")
            parts.append(f"{name} {signed(AP.difference)}{spread}{f', {verdict}' if verdict else ''}")
    return f"B compared with A: {'; '.join(parts)}."


def _part(title: str, head: str, differences: Sequence[Difference]) -> str:
    largest = differences
    if len(differences) > MOST_DOTS:
        largest = _by_difference(sorted(differences, key=lambda d: -_size(d))[:MOST_DOTS])
    plot = dots([_dot(d) for d in largest], "B − A in percentage points")
    more = f'<p class="note">The {MOST_DOTS} largest differences.</p>' if len(largest) < len(differences) else ""
    rows = [
        [escape(shown(d.name)), percent(d.first), percent(d.second), signed(d.difference), interval(d), _mark(d)]
        for d in differences
    ]
    cells = table([head, "A", "B", "B − A", "95% interval", ""], rows, numeric=(1, 2, 3, 4))
    return f'<h2>{title}</h2><div class="pair"><div>{plot}{more}</div><div>{cells}</div></div>'


def _by_difference(differences: Sequence[Difference]) -> list[Difference]:
    return sorted(differences, key=lambda d: math.inf if math.isnan(d.difference) else d.difference)


def _size(d: Difference) -> float:
    return -1.0 if math.isnan(d.difference) else abs(d.difference)


def _dot(d: Difference) -> Dot:
    return Dot(d.name, 100 * d.difference, 100 * d.low, 100 * d.high, TONES.get(d.verdict, "c0"))


def _mark(d: Difference) -> str:
    return f'<b class="{TONES[d.verdict]}">{d.verdict}</b>' if d.verdict else ""


def _changed(changed: Sequence[ChangedImage]) -> str:
    items = []
    for one in changed:
        verdict = "better" if one.second > one.first else "worse"
        text = (
            f"<b>{escape(shown(one.file_name))}</b> (id {one.image_id}): F1 {percent(one.first)} → "
            f'{percent(one.second)} <b class="{TONES[verdict]}">{verdict}</b>'
            f"{stretch_note(one.images[0] if one.images else None)}"
        )
        sides = zip("AB", one.images or (), strict=False)
        figures = "".join(
            f"<figure>{image(picture, f'{side}: {one.file_name}')}<figcaption><b>{side}</b></figcaption></figure>"
            for side, picture in sides
        )
        items.append(f'<div class="case"><p>{text}</p><div class="pair">{figures}</div></div>')
    have = any(one.images for one in changed)
    note = (
        f"{plural(len(changed), 'image')} with the largest change of F1. Each evaluation uses its own recommended "
        f"score threshold.{'' if have else ' To see the images, give their folder with --images.'}"
    )
    return f'<h2>Images that changed most</h2><p class="note">{note}</p>{legend() if have else ""}{"".join(items)}'


def _last(path: str) -> str:
    return path.rstrip("/").split("/")[-1]
