"""Write the report of maps as one HTML page that needs no network."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from detection.evaluation.percent import percent
from detection.foreign import shown
from detection.report.analysis import Measure
from detection.report.charts import bar
from detection.report.frame import frame
from detection.report.page import (
    about_section,
    card,
    data_of,
    detector_of,
    image,
    matrix_grid,
    script,
    stretch_note,
    table,
)
from detection.report.pictures import Picture
from detection.wording import plural

TITLES = {"semantic": "Semantic maps", "panoptic": "Panoptic maps"}
WORDS = {
    "mIoU": "mean IoU of the classes",
    "fwIoU": "IoU, weighted by pixels",
    "mean_accuracy": "mean accuracy of the classes",
    "pixel_accuracy": "right pixels",
    "PQ": "panoptic quality",
    "SQ": "mean IoU of matched segments",
    "RQ": "F1 of segments at IoU 0.5",
}
"""Explanation of each number."""
GROUPS = {"_things": "of objects", "_stuff": "of stuff"}
MOST_CLASSES = 25
"""Classes in the confusion matrix: those with the most wrong pixels."""
MOST_PAIRS = 10
"""Pairs of classes in the table of confusions."""


@dataclass(frozen=True)
class Case:
    """An image with a low score."""

    file_name: str
    image_id: int
    score: float
    pictures: tuple[Picture, Picture] | None = None
    """Ground truth and prediction; None if the file cannot be read."""


def page(
    found: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
    worst: Sequence[Case] = (),
    beside: Sequence[str] = (),
) -> str:
    """Write the whole page.

    Args:
        found: ``numbers`` and ``classes`` of each kind of map, and the ``confusion`` of semantic maps.
        about: model, data, versions and checksums.
        worst: images with the lowest scores.
        beside: names of the files in the page's folder, to link to.
    """
    last = list(found)[-1]
    sections = [_section(kind, report) for kind, report in reversed(list(found.items()))]
    sections += [_worst(worst, last)] if worst else []
    links = {kind: TITLES[kind] for kind in reversed(list(found))} | ({"worst": "Worst images"} if worst else {})
    menu = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in (links | {"about": "About"}).items())
    names = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in beside)
    head = (
        f'<p class="lead">{escape(summary(found, about))}</p>'
        f"<p>{escape(str(about.get('model', '')))}; {escape(str(about['annotations']))}. {escape(str(about['date']))}. "
        "Numbers are in percent. 95% intervals are from bootstrap samples of the images. – means that there is no such "
        f"class.</p><p>Data: {names}</p><nav>{menu}</nav>"
    )
    title = f"Maps: {detector_of(about)} on {data_of(about)}"
    return frame(title, "".join([*sections, about_section(about)]), head, script("page.js"))


def summary(found: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """Summarise an evaluation in one sentence."""
    main = {"semantic": "mIoU", "panoptic": "PQ"}
    parts = [f"{main[kind]} {percent(report['numbers'][main[kind]]['value'])}" for kind, report in found.items()]
    return (
        f"{shown(detector_of(about), 100)} on {plural(about['images_scored'], 'image')}: {', '.join(reversed(parts))}."
    )


def _section(kind: str, report: Mapping[str, Any]) -> str:
    cards = []
    for k, (name, one) in enumerate(report["numbers"].items()):
        group = next((text for end, text in GROUPS.items() if name.endswith(end)), "")
        words = WORDS[name.removesuffix("_things").removesuffix("_stuff")]
        title = name.replace("_", " ")
        cards.append(
            card(title, Measure(one["value"], one["error"]), f"{words}{' ' * bool(group)}{group}", " first" * (not k))
        )
    parts = f'<div class="cards">{"".join(cards)}</div><h3>Classes</h3>{_classes(kind, report["classes"])}'
    if "confusion" in report:
        parts += _confusion(report)
    return f'<section id="{kind}"><h2>{TITLES[kind]}</h2>{parts}</section>'


def _classes(kind: str, classes: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    total = sum(row.get("pixels", 0) for row in classes) or 1
    for row in classes:
        main = row["IoU" if kind == "semantic" else "PQ"]
        cells = [escape(shown(row["name"]))]
        cells += ["object" if row["isthing"] else "stuff"] if kind == "panoptic" else []
        cells += [percent(main), bar(0 if math.isnan(main) else main), _range(main, row["error"])]
        if kind == "semantic":
            cells += [percent(row["accuracy"]), percent(row["pixels"] / total), percent(row["predicted"] / total)]
        else:
            cells += [
                percent(row["SQ"]),
                percent(row["RQ"]),
                *(str(row[name]) for name in ("matched", "wrong", "missed")),
            ]
        rows.append(cells)
    if kind == "semantic":
        heads = ["class", "IoU", "", "95% interval", "accuracy", "share of the pixels", "predicted share"]
        return table(heads, rows, numeric=(1, 3, 4, 5, 6), sortable=True)
    heads = ["class", "kind", "PQ", "", "95% interval", "SQ", "RQ", "matched", "wrong", "missed"]
    return table(heads, rows, numeric=(2, *range(4, 10)), sortable=True)


def _confusion(report: Mapping[str, Any]) -> str:
    matrix, names = np.array(report["confusion"]), [row["name"] for row in report["classes"]]
    off = matrix - np.diag(np.diag(matrix))
    pairs = np.argwhere(off > 0)
    pairs = pairs[np.argsort(-off[pairs[:, 0], pairs[:, 1]], kind="stable")][:MOST_PAIRS]
    total = np.maximum(matrix.sum(axis=1), 1)
    rows = [
        [escape(shown(names[i])), escape(shown(names[j])), str(off[i, j]), percent(off[i, j] / total[i])]
        for i, j in pairs.tolist()
    ]
    top = table(["true", "predicted", "pixels", "of the true class"], rows, numeric=(2, 3)) if rows else ""
    weight = off.sum(axis=0) + off.sum(axis=1)
    kept = sorted(np.argsort(-weight, kind="stable")[:MOST_CLASSES].tolist())
    more = f" The {plural(len(kept), 'class')} with most wrong pixels." if len(kept) < len(names) else ""
    shares = np.rint(100 * matrix / total[:, None]).astype(int)
    grid = matrix_grid(shares, kept, [names[k] for k in kept])
    note = f"Percent of the pixels of the true class.{more}"
    return (
        f'<div class="pair"><div><h3>Confusion matrix</h3>{grid}<p class="note">{note}</p></div>'
        f"<div><h3>Most frequent confusions</h3>{top}</div></div>"
    )


def _worst(worst: Sequence[Case], kind: str) -> str:
    name, items = "PQ of the image" if kind == "panoptic" else "pixel accuracy", []
    for one in worst:
        text = (
            f"<b>{escape(shown(one.file_name))}</b> (id {one.image_id}): {name} {percent(one.score)}"
            f"{stretch_note(one.pictures[0] if one.pictures else None)}"
        )
        figures = "".join(
            f"<figure>{image(picture, f'{caption} of {one.file_name}')}<figcaption>{caption}</figcaption></figure>"
            for picture, caption in zip(one.pictures or (), ("ground truth", "prediction"), strict=False)
        )
        items.append(f'<div class="case"><p>{text}</p><div class="pair">{figures}</div></div>')
    note = f"The images with the lowest score: {name}. Both pictures use the same colours of the classes."
    return f'<section id="worst"><h2>Worst images</h2><p class="note">{note}</p>{"".join(items)}</section>'


def _range(value: float, error: float) -> str:
    if math.isnan(value) or math.isnan(error):
        return "–"
    return "–".join(percent(end) for end in Measure(value, error).interval)
