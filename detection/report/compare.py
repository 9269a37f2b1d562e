"""Compare two evaluations of the same images: differences of all numbers, with confidence intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.documents import read_json
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import hotcoco_evaluation
from detection.evaluation.ground_truth import is_scored
from detection.evaluation.limits import COCO_LIMITS, limits_up_to
from detection.evaluation.percent import percent
from detection.evaluation.results import read_results
from detection.foreign import shown
from detection.provenance import checksum
from detection.report.analysis import KINDS
from detection.report.resampling import Change, changes
from detection.report.truth import open_truth

SAME = {
    "annotations_sha256": "other annotation files",
    "image_ids_sha256": "other images",
    "protocol": "other protocols",
    "keypoint_sigmas": "other --keypoint-sigmas",
    "ground_truth": "other readings of the annotations (evaluate the results_*.json of the checked one as files)",
}
"""Entries that must be equal in two evaluations to compare, with messages about their differences."""


@dataclass(frozen=True)
class Difference:
    """A number of two evaluations on the same images."""

    name: str
    first: float
    second: float
    low: float
    high: float
    """95% interval of second - first, over bootstrap samples of the images, the same for both; NaN if there is none."""

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or nothing if the interval, as :func:`signed` writes it, contains 0."""
        return "better" if _tenths(self.low) > 0 else "worse" if _tenths(self.high) < 0 else ""


def compare(
    first: Path, second: Path, annotations: Path | None = None, resamplings: int = 1000, seed: int = 0
) -> dict[str, list[Difference]]:
    """Return the differences of the twelve numbers and of the AP of each class.

    Args:
        first: folder that ``rcnn evaluate`` wrote.
        second: another such folder.
        annotations: path of the annotation file, if it was moved.
        resamplings: number of bootstrap samples of the images, for the intervals.
        seed: seed of the samples.

    Returns:
        Differences by IoU type and kind, such as ``bbox/numbers`` and ``segm/classes``.

    Raises:
        ValueError: the evaluations are not comparable, and the message says why; or a file is missing.
    """
    reports = [read_report(folder) for folder in (first, second)]
    abouts = [report["about"] for report in reports]
    check_comparable(*abouts)
    kinds = [kind for kind in KINDS if all(kind in report for report in reports)]
    if not kinds:
        raise ValueError(f"{first}, {second}: no results of one kind in both; run rcnn evaluate again")
    path = annotations or Path(abouts[0]["annotations"])
    found: dict[str, list[Difference]] = {}
    for kind in kinds:
        evaluators = [evaluator_of(folder, abouts[0], kind, path) for folder in (first, second)]
        found |= _compare(kind, evaluators, resamplings, seed)
    return found


def evaluator_of(folder: Path, about: Mapping[str, Any], kind: str, annotations: Path) -> CocoEvaluator:
    """Return the evaluator of a saved evaluation, with its results of one IoU type.

    Args:
        folder: folder of the evaluation.
        about: part ``about`` of its report.
        kind: ``bbox``, ``segm`` or ``keypoints``.
        annotations: annotation file.

    Raises:
        ValueError: the annotation file is missing, or is not that of the evaluation.
    """
    if not annotations.is_file():
        raise ValueError(f"{annotations}: no such annotation file; name it with --annotations")
    if checksum(annotations) != about["annotations_sha256"]:
        raise ValueError(f"{annotations}: is not the file that was evaluated on (its SHA-256 differs)")
    truth, limits = open_truth(annotations, about["ground_truth"]), limits_up_to(most_detections(about))
    sigmas = about.get("keypoint_sigmas")
    evaluator = CocoEvaluator(truth, [kind], image_ids="all", max_detections=limits, keypoint_sigmas=sigmas)
    evaluator.add_results(read_results(folder / f"results_{kind}.json"))
    return evaluator


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Check that the numbers of two evaluations mean the same.

    Args:
        first, second: results of :func:`~detection.provenance.about`.

    Raises:
        ValueError: they differ; the message lists all differences.
    """
    reasons = [f"{what}: {first.get(key)} and {second.get(key)}" for key, what in SAME.items()
               if first.get(key) != second.get(key)]  # fmt: skip
    limits = [most_detections(one) for one in (first, second)]
    if limits[0] != limits[1]:
        reasons.append(f"other limits of detections (--max-dets): {limits[0]} and {limits[1]}")
    if reasons:
        raise ValueError("these evaluations cannot be compared, they have\n  " + "\n  ".join(reasons))


def most_detections(about: Mapping[str, Any]) -> int:
    """Return the limit of detections of an evaluation; reports of older versions used the limit of COCO."""
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
        if any(o["category_id"] == id and is_scored(o) for o in truth["annotations"]):
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


def read_report(folder: Path) -> dict[str, Any]:
    """Read the ``report.json`` of an evaluation.

    Raises:
        ValueError: the folder has none.
    """
    path = folder / "report.json"
    try:
        report = read_json(path)
        return {**report, "about": dict(report["about"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: not an evaluation folder (no report: {error}). Run rcnn evaluate MODEL --output {folder} first"
        ) from error


def text(found: Mapping[str, Sequence[Difference]], classes: int = 5, numbers: str = "AP and AR") -> str:
    """Write a comparison for a terminal: all numbers in percent, and the classes that changed most.

    Args:
        found: from :func:`compare`.
        classes: number of classes.
        numbers: what the numbers are.
    """
    lines = [f"{numbers} in percent; 95% intervals in brackets"]
    for key, differences in found.items():
        kind, what = key.split("/")
        if what == "classes":
            differences = sorted(differences, key=lambda d: -abs(d.difference))[:classes]
            lines.append(f"{kind}, the classes that changed most")
        else:
            lines.append(kind)
        for d in differences:
            lines.append(
                f"  {shown(d.name):<18}{percent(d.first):>5} -> {percent(d.second):>5}  {signed(d.difference)}  "
                f"({interval(d)})  {d.verdict}".rstrip()
            )
    return "\n".join(lines)


def signed(value: float) -> str:
    """Write a fraction in percent with its sign."""
    return "–" if math.isnan(value) else f"{_tenths(value):+.1f}"


def _tenths(value: float) -> float:
    """Return a fraction in percent, to one decimal; never -0.0."""
    return round(100 * value, 1) + 0.0


def interval(d: Difference) -> str:
    """Write the interval of a difference in percent."""
    return "–" if math.isnan(d.low) else f"{signed(d.low)} to {signed(d.high)}"
