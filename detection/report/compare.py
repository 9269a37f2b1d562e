"""Two evaluations of the same images: is B better than A, where, and is it more than chance?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from detection.documents import read_json
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import hotcoco_evaluation
from detection.evaluation.limits import COCO_LIMITS, limits_up_to
from detection.evaluation.percent import percent
from detection.evaluation.results import read_results
from detection.foreign import shown
from detection.provenance import checksum
from detection.report.frame import frame
from detection.report.page import KINDS, table
from detection.report.resampling import Change, changes
from detection.report.truth import open_truth

SAME = {
    "annotations_sha256": "other annotation files",
    "image_ids_sha256": "other images",
    "protocol": "other protocols",
    "ground_truth": "other readings of the annotations (evaluate the results_*.json of the checked one as files)",
}
"""What two evaluations must share to be compared."""


@dataclass(frozen=True)
class Difference:
    """A number of two evaluations on the same images."""

    name: str
    first: float
    second: float
    low: float
    high: float
    """95% interval of second - first, over images drawn again, the same for both; NaN where there is none."""

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """In one word: ``better``, ``worse``, or nothing where chance would do."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else ""


def compare(
    first: Path, second: Path, annotations: Path | None = None, resamplings: int = 1000, seed: int = 0
) -> dict[str, list[Difference]]:
    """Differences of the twelve numbers and of each class's AP, by IoU type and kind, as ``bbox/numbers``.

    Args:
        first: folder that ``rcnn evaluate`` wrote.
        annotations: where the annotation file is now, if it was moved.

    Raises:
        ValueError: they cannot be compared, and why; or a file is missing.
    """
    reports = [_report(folder) for folder in (first, second)]
    abouts = [report["about"] for report in reports]
    check_comparable(*abouts)
    path = annotations or Path(abouts[0]["annotations"])
    if not path.is_file():
        raise ValueError(f"{path}: no such annotation file; say where it is with --annotations")
    if checksum(path) != abouts[0]["annotations_sha256"]:
        raise ValueError(f"{path}: is not the file that was evaluated on (its SHA-256 differs)")
    kinds = [kind for kind in KINDS if all(kind in report for report in reports)]
    if not kinds:
        raise ValueError(f"{first}, {second}: no results of one kind in both; run rcnn evaluate again")
    found: dict[str, list[Difference]] = {}
    for kind in kinds:
        evaluators = []
        for folder in (first, second):
            truth, limits = open_truth(path, abouts[0]["ground_truth"]), limits_up_to(most_detections(abouts[0]))
            evaluator = CocoEvaluator(truth, [kind], image_ids="all", max_detections=limits)
            evaluator.add_results(read_results(folder / f"results_{kind}.json"))
            evaluators.append(evaluator)
        found |= _compare(kind, evaluators, resamplings, seed)
    return found


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuse two evaluations whose numbers mean different things.

    Args:
        first: what :func:`~detection.provenance.about` wrote.

    Raises:
        ValueError: with all reasons.
    """
    reasons = [f"{what}: {first.get(key)} and {second.get(key)}" for key, what in SAME.items()
               if first.get(key) != second.get(key)]  # fmt: skip
    limits = [most_detections(one) for one in (first, second)]
    if limits[0] != limits[1]:
        reasons.append(f"other limits of detections (--max-dets): {limits[0]} and {limits[1]}")
    if reasons:
        raise ValueError("these evaluations cannot be compared, they have\n  " + "\n  ".join(reasons))


def most_detections(about: Mapping[str, Any]) -> int:
    """The limit of an evaluation; reports of older versions have COCO's and do not say it."""
    limit = about.get("max_detections", COCO_LIMITS[-1])
    if type(limit) is not int:
        raise ValueError(f"report.json: max_detections is {shown(limit)}, but must be a number")
    return limit


def _compare(
    kind: str, evaluators: Sequence[CocoEvaluator], resamplings: int, seed: int
) -> dict[str, list[Difference]]:
    truth = evaluators[0].truth(kind)
    results = [evaluator.results(kind) for evaluator in evaluators]
    limits = evaluators[0].max_detections
    a, b = (hotcoco_evaluation(truth, list(rows), kind, limits) for rows in results)
    numbers = [_difference(name, change) for name, change in changes(truth, a, b, resamplings, seed).items()]
    classes = []
    for id, name in zip(evaluators[0].categories.ids, evaluators[0].categories.names, strict=True):
        if any(o["category_id"] == id and not o["iscrowd"] for o in truth["annotations"]):
            part = _of_class(truth, id)
            parts = ([r for r in rows if r["category_id"] == id] for rows in results)
            a, b = (hotcoco_evaluation(part, rows, kind, limits) for rows in parts)
            classes.append(_difference(name, changes(part, a, b, resamplings, seed)["AP"]))
    return {f"{kind}/numbers": numbers, f"{kind}/classes": classes}


def _of_class(truth: Mapping[str, Any], id: int) -> dict[str, Any]:
    return {
        **truth,
        "categories": [c for c in truth["categories"] if c["id"] == id],
        "annotations": [a for a in truth["annotations"] if a["category_id"] == id],
    }


def _difference(name: str, change: Change) -> Difference:
    return Difference(name, change.first, change.second, change.low, change.high)


def _report(folder: Path) -> dict[str, Any]:
    """The content of ``report.json``."""
    path = folder / "report.json"
    try:
        report = read_json(path)
        return {**report, "about": dict(report["about"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no report ({error}); give folders that rcnn evaluate wrote") from error


def page(first: str, second: str, found: Mapping[str, Sequence[Difference]]) -> str:
    """One HTML page of a comparison."""
    parts = []
    for key, differences in found.items():
        kind, what = key.split("/")
        heads = [what.removesuffix("s") if what == "classes" else "number", "A", "B", "B - A", "95% interval", ""]
        if what == "classes":
            heads[0] = "AP of class"
            differences = sorted(differences, key=lambda d: d.difference)
        rows = [
            [escape(shown(d.name)), percent(d.first), percent(d.second), _signed(d.difference), _interval(d), _mark(d)]
            for d in differences
        ]
        parts.append(f"<h2>{KINDS[kind]}: {what}</h2>{table(heads, rows, numeric=(1, 2, 3, 4))}")
    parts.append(
        '<p class="note">Numbers in percent. Intervals of B - A over images drawn again with replacement, '
        "the same ones for both. "
        "Better and worse are said where 0 lies outside. – where the objects are in too few images.</p>"
    )
    return frame("Comparison", "".join(parts), f"<p>A: {escape(first)}<br>B: {escape(second)}</p>")


def text(found: Mapping[str, Sequence[Difference]], classes: int = 5) -> str:
    """For a terminal: all numbers in percent, and the classes that changed most."""
    lines = ["AP and AR in percent; 95% intervals in brackets"]
    for key, differences in found.items():
        kind, what = key.split("/")
        if what == "classes":
            differences = sorted(differences, key=lambda d: -abs(d.difference))[:classes]
            lines.append(f"{kind}, the classes that changed most")
        else:
            lines.append(kind)
        for d in differences:
            lines.append(
                f"  {shown(d.name):<18}{percent(d.first):>5} -> {percent(d.second):>5}  {_signed(d.difference)}  "
                f"({_interval(d)})  {d.verdict}".rstrip()
            )
    return "\n".join(lines)


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def _interval(d: Difference) -> str:
    return "–" if math.isnan(d.low) else f"{_signed(d.low)} to {_signed(d.high)}"


def _mark(d: Difference) -> str:
    tone = {"better": "c2", "worse": "c4"}.get(d.verdict, "")
    return f'<b class="{tone}">{d.verdict}</b>'
