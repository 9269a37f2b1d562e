"""Write the report of a classifier as one HTML page that needs no network."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from detection.evaluation.percent import percent
from detection.foreign import shown
from detection.report.analysis import Measure
from detection.report.charts import bar, lines
from detection.report.classification.wrong import Wrong
from detection.report.frame import frame
from detection.report.page import about_section, card, data_of, image, matrix_grid, number, script, table
from detection.wording import plural

TITLES = {
    "top1": ("top-1 accuracy", "the best class is right"),
    "top5": ("top-5 accuracy", "one of five is right"),
    "class_mean": ("class mean", "mean accuracy of the classes"),
    "mAP": ("mAP", "mean average precision"),
    "F1": ("F1", "all classes together, at 0.5"),
    "class_mean_F1": ("class mean F1", "mean over classes, at 0.5"),
    "exact": ("exact", "all classes of an image are right"),
}
"""Title and explanation of each number."""
MOST_CLASSES = 25
"""Classes in the confusion matrix: those with the most confusions."""
MOST_PAIRS = 10
"""Pairs of classes in the table of confusions."""


def page(
    report: Mapping[str, Any],
    about: Mapping[str, Any],
    worst: Sequence[Wrong] = (),
    beside: Sequence[str] = (),
) -> str:
    """Write the whole page.

    Args:
        report: ``numbers``, ``classes``, ``calibration`` and, for one class per image, ``confusion``.
        about: model, data, versions and checksums.
        worst: wrong images with the largest loss: file, what it is and what is predicted, and the drawn image.
        beside: names of the files in the page's folder, to link to.
    """
    parts = [_calibration(report["calibration"], "confusion" in report)]
    if "confusion" in report:
        parts.append(_confusion(report))
    title = "Evaluation: " + f"{shown(about['name'])} on {data_of(about)}"
    links = {"scores": "Scores", "classes": "Classes", **({"worst": "Wrong images"} if worst else {}), "about": "About"}
    menu = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in links.items())
    body = [
        f'<section id="scores"><h2>Scores</h2><div class="pair">{"".join(parts)}</div></section>',
        f'<section id="classes"><h2>Classes</h2>{_classes(report)}</section>',
        _worst(worst) if worst else "",
        about_section(about),
    ]
    return frame(title, "".join(body), f"{_head(report, about, beside)}<nav>{menu}</nav>", script("page.js"))


def summary(report: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Summarise an evaluation in one sentence."""
    found = ", ".join(
        f"{TITLES[name][0]} {percent(_value(one['value']))}{_interval(one)}" for name, one in report["numbers"].items()
    )
    return f"{shown(about['name'])} on {plural(report['images'], 'image')}: {found}."


def _head(report: Mapping[str, Any], about: Mapping[str, Any], beside: Sequence[str]) -> str:
    cards = [
        card(TITLES[name][0], Measure(_value(one["value"]), _value(one["error"])), TITLES[name][1], " first" * (not k))
        for k, (name, one) in enumerate(report["numbers"].items())
    ]
    error = _value(report["calibration"]["error"])
    cards.append(card("calibration error", Measure(error, math.nan), "expected, of the confidence"))
    names = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in beside)
    note = (
        f"{escape(str(about['model']))}; {escape(str(about['annotations']))}: {plural(report['images'], 'image')}, "
        f"{plural(len(report['classes']), 'class')}. {escape(str(about.get('date', '')))}. Loss "
        f"{number(_value(report['loss']))}. Numbers are in percent, scores from 0 to 1. "
        "95% intervals are from bootstrap samples of the images."
    )
    return (
        f'<p class="lead">{escape(summary(report, about))}</p><div class="cards">{"".join(cards)}</div>'
        f"<p>{note}</p>{f'<p>Data: {names}</p>' if names else ''}"
    )


def _calibration(found: Mapping[str, Any], one_class: bool) -> str:
    right = "accuracy" if one_class else "fraction of present classes"
    points = {right: [(row["confidence"], row["accuracy"]) for row in found["bins"]]}
    chart = lines(points, "confidence" if one_class else "score", right, diagonal=True, dots=True)
    note = "Below the diagonal, the classifier is over-confident."
    return f'<div><h3>Calibration (reliability diagram)</h3>{chart}<p class="note">{note}</p></div>'


def _confusion(report: Mapping[str, Any]) -> str:
    matrix, names = np.array(report["confusion"]), [row["name"] for row in report["classes"]]
    off = matrix - np.diag(np.diag(matrix))
    pairs = np.argwhere(off > 0)
    pairs = pairs[np.argsort(-off[pairs[:, 0], pairs[:, 1]], kind="stable")][:MOST_PAIRS]
    rows = [[_text(names[i]), _text(names[j]), str(off[i, j])] for i, j in pairs.tolist()]
    top = table(["true", "predicted", "images"], rows, numeric=(2,)) if rows else ""
    weight = off.sum(axis=0) + off.sum(axis=1)
    kept = sorted(np.argsort(-weight, kind="stable")[:MOST_CLASSES].tolist())
    more = f" The {plural(len(kept), 'class')} with most confusions." if len(kept) < len(names) else ""
    grid = matrix_grid(matrix, kept, [names[k] for k in kept])
    return f'<div><h3>Confusion matrix</h3>{grid}<p class="note">Numbers of images.{more}</p>{top}</div>'


def _classes(report: Mapping[str, Any]) -> str:
    shares: tuple[str, ...] = ()
    if "confusion" in report:
        heads, main = ["class", "images", "predicted", "accuracy", "", "95% interval"], "accuracy"
    else:
        shares, main = ("precision", "recall", "F1", "best_F1"), "AP"
        heads = ["class", "images", "predicted", "AP", "", "95% interval", *("precision", "recall", "F1", "best F1")]
        heads.append("its threshold")
    rows = []
    for row in report["classes"]:
        value = _value(row[main])
        cells = [_text(row["name"]), str(row["images"]), str(row["predicted"]), percent(value)]
        cells += [bar(0 if math.isnan(value) else value), _range(Measure(value, _value(row["error"])))]
        cells += [percent(_value(row[name])) for name in shares]
        cells += [number(_value(row["best_threshold"]))] if shares else []
        rows.append(cells)
    return table(heads, rows, numeric=(1, 2, 3, *range(5, len(heads))), sortable=True)


def _worst(worst: Sequence[Wrong]) -> str:
    items = [
        f"<figure>{image(picture, file)}<figcaption><b>{_text(file)}</b><br>{escape(text)}</figcaption></figure>"
        for file, text, picture in worst
    ]
    note = "Wrong predictions with the largest loss: either the classifier or the label is wrong."
    return (
        f'<section id="worst"><h2>Wrong images</h2><p class="note">{note}</p>'
        f'<div class="tiles">{"".join(items)}</div></section>'
    )


def _interval(one: Mapping[str, Any]) -> str:
    text = _range(Measure(_value(one["value"]), _value(one["error"])))
    return f" ({text})" if text != "–" else ""


def _range(measure: Measure) -> str:
    if math.isnan(measure.error) or math.isnan(measure.value):
        return "–"
    return "–".join(percent(end) for end in measure.interval)


def _value(value: float | None) -> float:
    return math.nan if value is None else value


def _text(foreign: str) -> str:
    """Return a name from a file as safe HTML."""
    return escape(shown(foreign))
