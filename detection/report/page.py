"""The report as one HTML page that needs nothing else: no network, and no JavaScript for the numbers."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from detection.evaluation.percent import percent
from detection.foreign import shown
from detection.report.analysis import ERRORS, RECALLS, Analysis, ImageRow, Suspect
from detection.report.charts import bar, lines
from detection.report.frame import frame
from detection.wording import plural

KINDS = {"bbox": "Boxes", "segm": "Masks"}
WORDS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects under 32² pixels",
    "APm": "32² to 96² pixels",
    "APl": "over 96² pixels",
    "ARs": "recall, small",
    "ARm": "recall, medium",
    "ARl": "recall, large",
}
MOST_CLASSES = 25
"""Classes shown in the confusion matrix: those with the most confusions."""


def page(
    analyses: Sequence[Analysis],
    about: Mapping[str, Any],
    worst: Sequence[tuple[ImageRow, str | None]] = (),
    suspects: Sequence[tuple[Suspect, str | None]] = (),
) -> str:
    """The whole page.

    Args:
        about: what was evaluated, with what; shown at the top and at the end.
        worst: images with a picture as a data URL.
        suspects: likewise.
    """
    sections = [_section(analysis) for analysis in analyses]
    sections += [_worst(worst)] if worst else []
    sections += [_suspects(suspects)] if suspects else []
    sections.append(_about(about))
    links = [(a.iou_type, KINDS[a.iou_type]) for a in analyses]
    links += [("worst", "Worst images")] if worst else []
    links += [("suspects", "Annotations to check")] if suspects else []
    links.append(("about", "About"))
    menu = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in links)
    what = str(about.get("model") or about.get("results"))
    title = "Evaluation of " + ", ".join("/".join(re.split(r"[/\\]", path)[-3:]) for path in what.split(", "))
    script = files("detection.report").joinpath("page.js").read_text(encoding="utf-8")
    head = f"<p>{_subtitle(analyses[0], about)}</p><nav>{menu}</nav>"
    return frame(title, "".join(sections), head, script)


def _subtitle(analysis: Analysis, about: Mapping[str, Any]) -> str:
    return (
        f"on {escape(str(about.get('annotations', '')))}: {plural(analysis.images, 'image')}, "
        f"{plural(analysis.objects, 'object')}, "
        f"classes: {len(analysis.classes)}; {escape(str(about.get('date', '')))}. "
        f"Precision of the detections: {escape(str(about.get('precision', 'unknown')))}. "
        "AP, AR, precision, recall and F1 are in percent, scores from 0 to 1. "
        f"At most {analysis.max_detections} detections of a class in an image count."
    )


def _section(analysis: Analysis) -> str:
    kind = analysis.iou_type
    curves = {
        f"IoU {iou}": list(zip(RECALLS.tolist(), values, strict=True))
        for iou, values in analysis.curves.items()
        if values
    }
    point = analysis.operating_point
    return f"""<section id="{kind}"><h2>{KINDS[kind]}</h2>
{_cards(analysis)}
<p class="note">With 95% intervals from images drawn again with replacement, unless the objects are in too few images.
– means that there is nothing to find.</p>
<h3>What is lost to which error</h3>{_errors(analysis)}
<div class="pair"><div><h3>Precision over recall</h3>{lines(curves, "recall", "precision", percent=True)}</div>
<div><h3>How far scores can be trusted</h3>{_calibration(analysis)}</div></div>
<h3>Where to cut</h3>
<p>Over all classes the best F1 is <b>{percent(point["F1"])}</b>, at a score of <b>{point["threshold"]:.3f}</b>:
precision {percent(point["precision"])}, recall {percent(point["recall"])}, at IoU 0.5.
The matrix and the pictures below are made there; the best threshold of each class is in the table.</p>
<h3>Classes</h3>{_classes(analysis)}
<h3>Confusions</h3>{_confusion(analysis)}
<h3>Images with few and with many objects</h3>{_crowding(analysis)}
</section>"""


def _cards(analysis: Analysis) -> str:
    cards = []
    for name, measure in analysis.numbers.items():
        low, high = measure.interval
        spread = "" if math.isnan(measure.error) else f"<small>{percent(low)} to {percent(high)}</small>"
        cards.append(
            f'<div class="card{" first" if name == "AP" else ""}"><span>{name}</span><b>{percent(measure.value)}</b>'
            f"{spread}<em>{_words(name)}</em></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _words(name: str) -> str:
    """What a number is."""
    return WORDS.get(name) or f"recall, {name.removeprefix('AR')} of a class per image"


def _errors(analysis: Analysis) -> str:
    most = max([*analysis.errors.values(), 1e-9])
    rows = [
        [escape(ERRORS[kind]), kind, percent(lost), bar(lost / most), str(analysis.error_counts[kind])]
        for kind, lost in sorted(analysis.errors.items(), key=lambda pair: -pair[1])
    ]
    return table(["error", "TIDE", "AP50 to be won", "", "detections or objects"], rows, numeric=(2, 4))


def _calibration(analysis: Analysis) -> str:
    bins = analysis.calibration["bins"]
    chart = lines({"share that is right": [(b["score"], b["right"]) for b in bins]}, "score", "share right", True)
    error = number(analysis.calibration["error"])
    return (
        f'{chart}<p class="note">Expected calibration error {error}; below the diagonal, scores promise too much.</p>'
    )


def _classes(analysis: Analysis) -> str:
    rows = [
        [
            _text(row.name),
            str(row.objects),
            percent(row.AP),
            bar(0 if math.isnan(row.AP) else row.AP),
            percent(row.AP50),
            percent(row.AR),
            percent(row.F1),
            number(row.threshold),
        ]
        for row in analysis.classes
    ]
    heads = ["class", "objects", "AP", "", "AP50", "AR", "best F1", "at score"]
    return table(heads, rows, numeric=(1, 2, 4, 5, 6, 7), sortable=True)


def _confusion(analysis: Analysis) -> str:
    matrix = np.array(analysis.confusion)
    names = [row.name for row in analysis.classes]
    off = matrix - np.diag(np.diag(matrix))
    pairs = np.argwhere(off[:-1, :-1] > 0)
    pairs = pairs[np.argsort(-off[pairs[:, 0], pairs[:, 1]], kind="stable")][:10]
    rows = [[_text(names[i]), _text(names[j]), str(off[i, j])] for i, j in pairs.tolist()]
    top = table(["truth", "detected as", "times"], rows, numeric=(2,)) if rows else ""
    weight = off[:-1].sum(axis=1) + off[:, :-1].sum(axis=0)
    shown = sorted(np.argsort(-weight, kind="stable")[:MOST_CLASSES].tolist())
    more = f", the {len(shown)} classes with most errors" if len(shown) < len(names) else ""
    places = [*shown, len(names)]
    heads = [*(names[k] for k in shown), "background"]
    total = np.maximum(matrix.sum(axis=1), 1)
    body = []
    for i, name in zip(places, heads, strict=True):
        cells = []
        for j, other in zip(places, heads, strict=True):
            count, share = int(matrix[i, j]), matrix[i, j] / total[i]
            tone = "hit" if i == j else "slip"
            text = str(count) if count else ""
            cells.append(
                f'<td class="{tone}" style="--share:{share:.2f}" title="{_text(name)} as {_text(other)}">{text}</td>'
            )
        body.append(f"<tr><th>{_text(name)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th><span>{_text(name)}</span></th>" for name in heads)
    grid = f'<table class="matrix"><tr><th></th>{head}</tr>{"".join(body)}</table>'
    note = f"Rows: what is there; columns: what was detected{more}. Background: nothing there, or nothing detected."
    return f'{top}<p class="note">{note}</p><div class="scroll">{grid}</div>'


def _crowding(analysis: Analysis) -> str:
    rows = [
        [r["objects"], str(r["images"]), percent(r["AP"]), percent(r["AP50"]), percent(r["AR"])]
        for r in analysis.by_crowding
    ]
    return table(["objects in the image", "images", "AP", "AP50", "AR"], rows, numeric=(1, 2, 3, 4))


def _worst(worst: Sequence[tuple[ImageRow, str | None]]) -> str:
    items = []
    for row, picture in worst:
        text = (
            f"<b>{_text(row.file_name)}</b> (id {row.image_id}): {row.found} of {row.objects} found, "
            f"{row.wrong} wrong, F1 {percent(row.F1)}"
        )
        items.append(f'<figure class="wide">{_image(picture, row.file_name)}<figcaption>{text}</figcaption></figure>')
    return f'<section id="worst"><h2>Worst images</h2>{"".join(items)}</section>'


def _suspects(suspects: Sequence[tuple[Suspect, str | None]]) -> str:
    items = []
    for one, picture in suspects:
        annotated = f", annotated as {_text(one.annotated)}" if one.annotated else ", nothing annotated"
        text = f"<b>{_text(one.detected)}</b> {one.score:.2f}{annotated}<br>{_text(one.file_name)} (id {one.image_id})"
        items.append(f"<figure>{_image(picture, one.detected)}<figcaption>{text}</figcaption></figure>")
    note = "Detections with a high score that contradict the annotations: one of the two is wrong."
    return (
        f'<section id="suspects"><h2>Annotations to check</h2><p class="note">{note}</p>'
        f'<div class="tiles">{"".join(items)}</div></section>'
    )


def _text(foreign: str) -> str:
    """A name out of a file, as HTML."""
    return escape(shown(foreign))


def _image(picture: str | None, name: str) -> str:
    return f'<img src="{picture}" alt="{_text(name)}" loading="lazy">' if picture else ""


def _about(about: Mapping[str, Any]) -> str:
    rows = [[escape(key.replace("_", " ")), f"<code>{escape(str(value))}</code>"] for key, value in about.items()]
    return f'<section id="about"><h2>About this evaluation</h2>{table(["", ""], rows)}</section>'


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = (), sortable: bool = False
) -> str:
    """An HTML table; cells are HTML already."""
    right = set(numeric)
    classes = ['class="n"' if k in right else "" for k in range(len(heads))]
    head = "".join(f"<th {c}>{h}</th>" for c, h in zip(classes, heads, strict=True)) if any(heads) else ""
    body = "".join(
        "<tr>" + "".join(f"<td {c}>{cell}</td>" for c, cell in zip(classes, row, strict=True)) + "</tr>" for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float) -> str:
    """Three digits; – for what is not a number."""
    return "–" if math.isnan(value) else f"{value:.3f}"
