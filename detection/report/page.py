"""Write the report as one HTML page that needs no network, and no JavaScript for the numbers."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from detection.evaluation.percent import percent
from detection.foreign import shown
from detection.report.analysis import ERRORS, KINDS, ONE, RECALLS, Analysis, ImageRow, Measure, Suspect
from detection.report.charts import bar, lines
from detection.report.frame import frame
from detection.report.pictures import LEGEND, Picture
from detection.wording import plural

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
    "AR": "mean recall over the thresholds",
    "AR50": "recall at 0.50",
    "AR75": "recall at 0.75",
}
MAIN = ("AP", "AP50", "AP75")
"""Numbers on larger cards."""
MOST_CLASSES = 25
"""Classes in the confusion matrix: those with the most confusions."""

LOSSES = {
    "Cls": "wrong classes",
    "Loc": "inaccurate localisation",
    "Both": "wrong classes at inaccurate places",
    "Dupe": "duplicates",
    "Bkg": "false positives on the background",
    "Miss": "missed objects",
}
"""Kinds of errors, as the summary names them."""


def page(
    analyses: Sequence[Analysis],
    about: Mapping[str, Any],
    worst: Sequence[tuple[ImageRow, tuple[Picture, Picture] | None]] = (),
    suspects: Sequence[tuple[Suspect, Picture | None]] = (),
    beside: Sequence[str] = (),
) -> str:
    """Write the whole page.

    Args:
        about: model, data, versions and checksums of the evaluation, for the top and the end of the page.
        worst: the images with the lowest F1: ground truth and detections of each.
        suspects: detections that contradict the annotations.
        beside: names of the files in the page's folder, to link to.
    """
    sections = [_section(analysis) for analysis in analyses]
    sections += [_worst(worst, analyses[-1])] if worst else []
    sections += [_suspects(suspects)] if suspects else []
    sections.append(about_section(about))
    links = [(a.iou_type, KINDS[a.iou_type]) for a in analyses]
    links += [("worst", "Worst images")] if worst else []
    links += [("suspects", "Annotations to check")] if suspects else []
    links.append(("about", "About"))
    menu = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in links)
    head = f"{_head(analyses, about, beside)}<nav>{menu}</nav>"
    return frame(f"Evaluation: {detector_of(about)} on {data_of(about)}", "".join(sections), head, script("page.js"))


def script(name: str) -> str:
    """Read a script of this package."""
    return files("detection.report").joinpath(name).read_text(encoding="utf-8")


def detector_of(about: Mapping[str, Any]) -> str:
    """Name the detector of an evaluation: as the user does, or by its kind, or by its files."""
    named = about.get("name") or about.get("detector")
    source = str(about.get("model") or about.get("results") or "detections")
    return str(named) if named else ", ".join(_end(path, 2) for path in source.split(", "))


def data_of(about: Mapping[str, Any]) -> str:
    """Name the data set: by its folder, or by the annotation file."""
    if about.get("data"):
        return f"{_end(str(about['data']), 1)} ({about.get('split', 'val')})"
    annotations = str(about.get("annotations", ""))
    usual = re.search(r"([^/\\]+)[/\\]annotations[/\\]instances_([^/\\]+)\.json$", annotations)
    return f"{usual[1]} ({usual[2]})" if usual else _end(annotations, 3)


def _end(path: str, parts: int) -> str:
    """Return the last parts of a path of any operating system."""
    return "/".join([part for part in re.split(r"[/\\]", path) if part][-parts:])


def summary(analyses: Sequence[Analysis], about: Mapping[str, Any]) -> str:
    """Summarise an evaluation in one sentence."""
    detector = shown(detector_of(about), 100)
    values = ", ".join(f"{ONE[a.iou_type]} AP {_with_interval(a.numbers['AP'])}" for a in analyses)
    kind, lost = max(analyses[0].errors.items(), key=lambda pair: pair[1])
    cause = f"; the largest loss is {LOSSES[kind]} (ΔAP50 {percent(lost)})" if lost > 0 else ""
    return f"{detector} on {plural(analyses[0].images, 'image')}: {values}{cause}."


def _with_interval(measure: Measure) -> str:
    low, high = measure.interval
    return percent(measure.value) + ("" if math.isnan(measure.error) else f" ({percent(low)}–{percent(high)})")


def _head(analyses: Sequence[Analysis], about: Mapping[str, Any], beside: Sequence[str]) -> str:
    first = analyses[0]
    cards = []
    for a in analyses:
        cards.append(card(f"{ONE[a.iou_type]} AP", a.numbers["AP"], _words("AP", a), " first"))
        cards.append(card(f"{ONE[a.iou_type]} AP50", a.numbers["AP50"], _words("AP50", a)))
    data = f"{plural(first.images, 'image')}, {plural(first.objects, 'object')}, {plural(len(first.classes), 'class')}"
    source = escape(str(about.get("model") or about.get("results") or ""))
    note = (
        f"{source + '; ' if source else ''}{escape(str(about.get('annotations', '')))}: {data}. "
        f"{escape(str(about.get('date', '')))}. "
        f"Precision of the detections: {escape(str(about.get('precision', 'unknown')))}. "
        "AP, AR, precision, recall and F1 are in percent, scores from 0 to 1. "
        f"At most {first.max_detections} detections of a class in an image count."
    )
    names = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in beside)
    lead = f"{summary(analyses, about)} {about.get('change') or ''}".strip()
    return (
        f'<p class="lead">{escape(lead)}</p><div class="cards">{"".join(cards)}</div>'
        f"<p>{note}</p>{f'<p>Data: {names}</p>' if names else ''}"
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
<p class="note">95% intervals are from bootstrap samples of the images.
They are missing where too few images have such objects. – means that there are no such objects.</p>
<div class="pair"><div><h3>Error analysis (TIDE)</h3>{_errors(analysis)}</div>
<div><h3>Precision–recall curves</h3>{lines(curves, "recall", "precision", percent=True)}</div>
<div><h3>Calibration (reliability diagram)</h3>{_calibration(analysis)}</div>
<div><h3>Confusion matrix</h3>{_confusion(analysis)}</div>
<div><h3>Recommended score threshold</h3>
<p>A score threshold of <b>{point["threshold"]:.3f}</b> gives the best F1 over all classes,
<b>{percent(point["F1"])}</b>: precision {percent(point["precision"])}, recall {percent(point["recall"])}, at IoU 0.5.
The confusion matrix and the images below use it. The table of classes has the best threshold of each class.</p></div>
<div><h3>AP by objects per image</h3>{_crowding(analysis)}</div></div>
<h3>Classes</h3>{_classes(analysis)}
</section>"""


def _cards(analysis: Analysis) -> str:
    cards = {
        name: card(name, value, _words(name, analysis), " first" * (name == "AP"))
        for name, value in analysis.numbers.items()
    }
    main = "".join(cards.pop(name) for name in MAIN)
    return f'<div class="cards main">{main}</div><div class="cards small">{"".join(cards.values())}</div>'


def card(name: str, measure: Measure, words: str, more: str = "") -> str:
    low, high = measure.interval
    spread = "" if math.isnan(measure.error) else f"<small>{percent(low)} to {percent(high)}</small>"
    value = percent(measure.value)
    return f'<div class="card{more}"><span>{name}</span><b>{value}</b>{spread}<em>{words}</em></div>'


def _words(name: str, analysis: Analysis) -> str:
    """Return the explanation of a metric; the similarity of keypoints is COCO's OKS."""
    if name == "AR50" and analysis.iou_type != "keypoints":  # recall of 50 detections
        return "recall, 50 per class and image"
    words = WORDS.get(name) or f"recall, {name.removeprefix('AR')} per class and image"
    return words.replace("IoU", "OKS") if analysis.iou_type == "keypoints" else words


def _errors(analysis: Analysis) -> str:
    most = max([*analysis.errors.values(), 1e-9])
    rows = [
        [escape(ERRORS[kind]), percent(lost), bar(lost / most), str(analysis.error_counts[kind])]
        for kind, lost in sorted(analysis.errors.items(), key=lambda pair: -pair[1])
    ]
    note = "ΔAP50 if fixed: the AP50 that the detector would gain without this kind of error."
    heads = ["error", "ΔAP50 if fixed", "", "count"]
    return f'{table(heads, rows, numeric=(1, 3))}<p class="note">{note}</p>'


def _calibration(analysis: Analysis) -> str:
    bins = analysis.calibration["bins"]
    points = {"precision in bin": [(b["score"], b["right"]) for b in bins]}
    chart = lines(points, "score", "precision in bin", diagonal=True, dots=True)
    return (
        f'{chart}<p class="note">Expected calibration error {number(analysis.calibration["error"])}. '
        "Below the diagonal, the detector is over-confident.</p>"
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
    heads = ["class", "objects", "AP", "", "AP50", "AR", "best F1", "score threshold"]
    return table(heads, rows, numeric=(1, 2, 4, 5, 6, 7), sortable=True)


def _confusion(analysis: Analysis) -> str:
    matrix = np.array(analysis.confusion)
    names = [row.name for row in analysis.classes]
    off = matrix - np.diag(np.diag(matrix))
    pairs = np.argwhere(off[:-1, :-1] > 0)
    pairs = pairs[np.argsort(-off[pairs[:, 0], pairs[:, 1]], kind="stable")][:5]
    rows = [[_text(names[i]), _text(names[j]), str(off[i, j])] for i, j in pairs.tolist()]
    top = table(["true", "predicted", "count"], rows, numeric=(2,)) if rows else ""
    weight = off[:-1].sum(axis=1) + off[:, :-1].sum(axis=0)
    kept = sorted(np.argsort(-weight, kind="stable")[:MOST_CLASSES].tolist())
    more = f" It shows the {len(kept)} classes with most errors." if len(kept) < len(names) else ""
    places = [*kept, len(names)]
    heads = [*(names[k] for k in kept), "background"]
    grid = matrix_grid(matrix, places, heads, empty=len(names))
    note = f"Background: no object there (row), or an object without a detection (column).{more}"
    return f'{grid}<p class="note">{note}</p>{top}'


def matrix_grid(matrix: np.ndarray, places: Sequence[int], heads: Sequence[str], empty: int | None = None) -> str:
    """Write some classes of a confusion matrix as an HTML table.

    Args:
        matrix: numbers; rows are true classes, columns predicted ones.
        places: the classes.
        heads: their names.
        empty: class whose own cell has no number.
    """
    total = np.maximum(matrix.sum(axis=1), 1)
    body = []
    for place, (i, name) in enumerate(zip(places, heads, strict=True)):
        cells = []
        for j, other in zip(places, heads, strict=True):
            count, share = int(matrix[i, j]), matrix[i, j] / total[i]
            tone = "hit" if i == j else "slip"
            text = "" if i == j == empty else str(count)
            hint = f"true {_text(name)}, predicted {_text(other)}"
            cells.append(f'<td class="{tone}" style="--share:{share:.2f}" title="{hint}">{text}</td>')
        axis = f'<th class="axis" rowspan="{len(places)}"><span>true</span></th>' if place == 0 else ""
        body.append(f'<tr>{axis}<th scope="row">{_text(name)}</th>{"".join(cells)}</tr>')
    # A few long names fit beside one another; many stand upright.
    upright = " upright" if len(places) > 4 else ""
    head = "".join(f'<th scope="col"><span>{_text(name)}</span></th>' for name in heads)
    grid = (
        f'<table class="matrix{upright}"><tr><td class="none" colspan="2"></td>'
        f'<th class="axis" colspan="{len(places)}">predicted</th></tr>'
        f'<tr class="names"><td class="none" colspan="2"></td>{head}</tr>{"".join(body)}</table>'
    )
    return f'<div class="scroll">{grid}</div>'


def _crowding(analysis: Analysis) -> str:
    rows = [
        [r["objects"], str(r["images"]), percent(r["AP"]), bar(0 if math.isnan(r["AP"]) else r["AP"]),
         percent(r["AP50"]), percent(r["AR"])]
        for r in analysis.by_crowding
    ]  # fmt: skip
    return table(["objects", "images", "AP", "", "AP50", "AR"], rows, numeric=(0, 1, 2, 4, 5))


def _worst(worst: Sequence[tuple[ImageRow, tuple[Picture, Picture] | None]], analysis: Analysis) -> str:
    threshold = analysis.operating_point["threshold"]
    items = []
    for row, pair in worst:
        text = (
            f"<b>{_text(row.file_name)}</b> (id {row.image_id}): {row.found} of {plural(row.objects, 'object')} found, "
            f"{row.missed} missed, {plural(row.wrong, 'false positive')}, F1 {percent(row.F1)}"
            f"{stretch_note(pair[0] if pair else None)}"
        )
        images = ""
        if pair:
            captions = ("ground truth", f"detections with a score of {threshold:.2f} or more")
            images = "".join(
                f"<figure>{image(one, f'{caption} of {row.file_name}')}<figcaption>{caption}</figcaption></figure>"
                for one, caption in zip(pair, captions, strict=True)
            )
        items.append(f'<div class="case"><p>{text}</p><div class="pair">{images}</div></div>')
    note = f"The images with the lowest F1 at the recommended score threshold, by {KINDS[analysis.iou_type].lower()}."
    return f'<section id="worst"><h2>Worst images</h2><p class="note">{note}</p>{legend()}{"".join(items)}</section>'


def _suspects(suspects: Sequence[tuple[Suspect, Picture | None]]) -> str:
    items = []
    for one, picture in suspects:
        annotated = f", annotated as {_text(one.annotated)}" if one.annotated else ", not annotated"
        text = (
            f"<b>{_text(one.detected)}</b> {one.score:.2f}{annotated}<br>{_text(one.file_name)} (id {one.image_id})"
            f"{stretch_note(picture)}"
        )
        items.append(f"<figure>{image(picture, one.detected)}<figcaption>{text}</figcaption></figure>")
    note = (
        "Detections with a high score that contradict the annotations: either the detection or the annotation is wrong."
    )
    return (
        f'<section id="suspects"><h2>Annotations to check</h2><p class="note">{note}</p>'
        f'<div class="tiles">{"".join(items)}</div></section>'
    )


def legend() -> str:
    """Explain the colours on images."""
    items = "".join(
        f'<span><i class="swatch" style="background:rgb{color}"></i>{text}</span>' for text, color in LEGEND.items()
    )
    return f'<p class="legend">{items}</p>'


def image(picture: Picture | None, name: str) -> str:
    """Return the HTML of an image that a click enlarges; "" for None."""
    return f'<img class="zoom" src="{picture.url}" alt="{_text(name)}" loading="lazy">' if picture else ""


def stretch_note(picture: Picture | None) -> str:
    """Return a note if the contrast of an image was stretched, else ""."""
    return "; dark image, contrast stretched" if picture and picture.stretched else ""


def _text(foreign: str) -> str:
    """Return a name from a file as safe HTML."""
    return escape(shown(foreign))


def about_section(about: Mapping[str, Any]) -> str:
    """Return the section about the evaluation: model and data, then versions, then checksums."""
    keys = list(about)
    hashes = [key for key in keys if "sha256" in key]
    first, last = (keys.index(name) if name in keys else len(keys) for name in ("rcnn_toolkit", "python"))
    versions = [key for key in keys[first : last + 1] if key not in hashes]
    rest = [key for key in keys if key not in hashes and key not in versions and about[key] is not None]
    parts = []
    for title, names in (("", rest), ("Versions", versions), ("Checksums", hashes)):
        rows = [[escape(_label(key)), f"<code>{escape(str(about[key]))}</code>"] for key in names]
        parts.append((f"<h3>{title}</h3>" if title else "") + table(["", ""], rows) if rows else "")
    return f'<section id="about"><h2>About this evaluation</h2>{"".join(parts)}</section>'


def _label(key: str) -> str:
    """Return the label of an entry, such as ``SHA-256 of image ids`` for ``image_ids_sha256``."""
    what = (
        key.removeprefix("sha256_of_")
        if key.startswith("sha256_of_")
        else key.removesuffix("_sha256").replace("_", " ")
    )
    return f"SHA-256 of {what}" if "sha256" in key else what


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Iterable[int] = (),
    sortable: bool = False,
    tones: Sequence[str] = (),
) -> str:
    """Write an HTML table.

    Args:
        rows: cells, which are HTML already.
        numeric: columns to align right.
        sortable: a click on a head sorts the rows.
        tones: a CSS class for each row.
    """
    right = set(numeric)
    classes = [' class="n"' if k in right else "" for k in range(len(heads))]
    head = "".join(f"<th{c}>{h}</th>" for c, h in zip(classes, heads, strict=True)) if any(heads) else ""
    body = []
    for place, row in enumerate(rows):
        cells = "".join(f"<td{c}>{cell}</td>" for c, cell in zip(classes, row, strict=True))
        body.append(f'<tr class="{tones[place]}">{cells}</tr>' if tones else f"<tr>{cells}</tr>")
    kind = ' class="sortable"' if sortable else ' class="findings"' if tones else ""
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{"".join(body)}</tbody></table></div>'


def number(value: float) -> str:
    """Write a number with three digits, and – for NaN."""
    return "–" if math.isnan(value) else f"{value:.3f}"
