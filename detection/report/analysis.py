"""Analyse the detections of one IoU type in plain numbers: for the page, the JSON and the tables.

K classes.  The evaluator has rejected detections on other images.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.engines import Evaluation, hotcoco_evaluation, mean, statistics, summarize
from detection.evaluation.found import box_of
from detection.evaluation.ground_truth import is_scored
from detection.evaluation.limits import scored_limits
from detection.report.resampling import changes

KINDS = {"bbox": "Boxes", "segm": "Masks", "keypoints": "Keypoints"}
ONE = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
"""Noun for the objects of each IoU type."""

RECALLS = np.linspace(0, 1, 101)
CROWDS = ((1, 1), (2, 5), (6, 15), (16, 50), (51, 10**9))
"""Groups of images by their number of objects: smallest and largest number."""
ERRORS = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "classification and localisation",
    "Dupe": "duplicate",
    "Bkg": "background (false positive)",
    "Miss": "missed object (false negative)",
}
"""Kinds of errors (TIDE, arXiv 2008.08115, section 2.2)."""


@dataclass(frozen=True)
class Measure:
    """A metric and its standard error over bootstrap samples of the images; NaN if unknown."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval by the normal distribution, within 0..1; NaN without an error."""
        low, high = np.clip([self.value - 1.96 * self.error, self.value + 1.96 * self.error], 0, 1).tolist()
        return low, high


@dataclass(frozen=True)
class ClassRow:
    """Metrics of one class."""

    name: str
    id: int
    objects: int
    AP: float
    AP50: float
    AR: float
    F1: float
    """The best F1 over all score thresholds, at IoU 0.5."""
    threshold: float
    """Score threshold of the best F1."""


@dataclass(frozen=True)
class ImageRow:
    """Results of one image at the operating point."""

    image_id: int
    file_name: str
    objects: int
    found: int
    """Number of found objects (true positives)."""
    missed: int
    """Number of missed objects (false negatives)."""
    wrong: int
    """Number of false positives."""
    F1: float


@dataclass(frozen=True)
class Suspect:
    """A detection with such a high score that the annotation may be wrong."""

    image_id: int
    file_name: str
    kind: str
    score: float
    detected: str
    annotated: str
    iou: float
    box: list[float]
    """x, y, width, height of the detection."""


@dataclass(frozen=True)
class Analysis:
    """Results of one IoU type."""

    iou_type: str
    images: int
    objects: int
    detections: int
    numbers: dict[str, Measure]
    """The COCO metrics by name; NaN if there are no objects that contribute to one."""
    max_detections: int
    """Limit of detections per class and image."""
    classes: list[ClassRow]
    curves: dict[str, list[float]]
    """Precision at each of RECALLS, averaged over classes, by IoU."""
    class_curves: dict[str, list[float]]
    """Precision at IoU 0.5 of each class with objects, by class name; names that two classes share contain the ID."""
    errors: dict[str, float]
    """AP50 that the detector would gain without this kind of error, by the names of ERRORS."""
    error_counts: dict[str, int]
    by_crowding: list[dict[str, Any]]
    calibration: dict[str, Any]
    operating_point: dict[str, float]
    """Score threshold with the best F1 over all classes, and precision, recall and F1 at it, for IoU 0.5."""
    confusion: list[list[int]]
    """(K + 1, K + 1) counts at the operating point: rows are true classes, columns predicted ones; last: background.

    Ignored detections, such as those in a crowd, do not count."""
    by_image: list[ImageRow]
    """Results of each image, the worst first."""
    suspects: list[Suspect]


def analyse(evaluator: CocoEvaluator, iou_type: str, resamplings: int = 100, seed: int = 0) -> Analysis:
    """Analyse the detections of an evaluator.

    Args:
        resamplings: bootstrap samples of the images, for the standard errors; 0 for none.

    Raises:
        ValueError: hotcoco is not installed, or no image was scored.
    """
    truth, results = evaluator.truth(iou_type), evaluator.results(iou_type)
    if not truth["images"]:
        raise ValueError("no image was evaluated; add detections first")
    # Each evaluation copies the detections, so the results are freed between them.
    from_all, statuses = _of_all(evaluator, truth, results, iou_type, resamplings, seed)
    threshold = from_all["operating_point"]["threshold"]
    # Ignored detections, such as those in a crowd, would count as errors and suspects.
    counted = (statuses >= 0).tolist()
    shown = [r for r, counts in zip(results, counted, strict=True) if counts and r["score"] >= threshold]
    del results
    at_point = hotcoco_evaluation(truth, shown, iou_type, evaluator.max_detections)
    diagnostics = at_point.image_diagnostics(score=0.8)
    return Analysis(
        iou_type=iou_type,
        images=len(truth["images"]),
        objects=sum(map(is_scored, truth["annotations"])),
        max_detections=scored_limits(evaluator.max_detections, iou_type)[-1],
        confusion=at_point.confusion().tolist(),
        by_image=_by_image(diagnostics["img_summary"], truth),
        suspects=_suspects(diagnostics["label_errors"], truth, shown),
        **from_all,
    )


def _of_all(
    evaluator: CocoEvaluator,
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str,
    resamplings: int,
    seed: int,
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the fields that depend on all detections, including low scores, and the (n,) :func:`true_positives`."""
    evaluation = hotcoco_evaluation(truth, results, iou_type, evaluator.max_detections)
    precision, recall = evaluation.precision, evaluation.recall
    statuses = true_positives(evaluation, results)
    scores = np.array([result["score"] for result in results], dtype=np.float64)
    labels = np.array([result["category_id"] for result in results], dtype=np.int64)
    objects = Counter(a["category_id"] for a in truth["annotations"] if is_scored(a))
    cuts = {id: _best_cut(scores[labels == id], statuses[labels == id], objects[id]) for id in evaluator.categories.ids}
    tide = evaluation.tide_errors()
    fields = {
        "detections": len(results),
        "numbers": _numbers(evaluation, truth, iou_type, resamplings, seed),
        "classes": _classes(evaluator, objects, precision, recall, cuts),
        "curves": {f"{0.5 + 0.05 * t:.2f}": _curve(precision[t, :, :, 0, -1]) for t in (0, 2, 4, 6, 8)},
        "class_curves": _class_curves(evaluator, precision),
        "errors": {kind: float(tide["delta_ap"][kind]) for kind in ERRORS},
        "error_counts": {kind: int(tide["counts"][kind]) for kind in ERRORS},
        "by_crowding": _by_crowding(evaluation, truth),
        "calibration": _calibration(results, statuses),
        "operating_point": _best_cut(scores, statuses, objects.total()),
    }
    return fields, statuses


def _numbers(
    evaluation: Evaluation, truth: dict[str, Any], iou_type: str, resamplings: int, seed: int
) -> dict[str, Measure]:
    limits = evaluation.limits
    errors = dict.fromkeys(statistics(limits, iou_type), float("nan"))
    if resamplings and truth["annotations"]:
        # All numbers of an evaluation without detections are 0, so the difference from it is the number itself.
        nothing = hotcoco_evaluation(truth, [], iou_type, limits)
        errors = {name: c.error for name, c in changes(truth, nothing, evaluation, resamplings, seed).items()}
    values = summarize(evaluation.precision, evaluation.recall, limits, iou_type)
    return {name: Measure(value, errors[name]) for name, value in values.items()}


def _classes(
    evaluator: CocoEvaluator,
    objects: Mapping[int, int],
    precision: np.ndarray,
    recall: np.ndarray,
    cuts: Mapping[int, Mapping[str, float]],
) -> list[ClassRow]:
    rows = []
    for k, (name, id) in enumerate(zip(evaluator.categories.names, evaluator.categories.ids, strict=True)):
        F1 = cuts[id]["F1"] if objects[id] else math.nan
        threshold = cuts[id]["threshold"] if F1 > 0 else math.nan
        AP, AP50 = mean(precision[:, :, k, 0, -1]), mean(precision[0, :, k, 0, -1])
        rows.append(ClassRow(name, id, objects[id], AP, AP50, mean(recall[:, k, 0, -1]), F1, threshold))
    return rows


def _curve(precision: np.ndarray) -> list[float]:
    """Average the precision (R, K) over classes that have objects; empty if there are none."""
    known = precision[:, precision.max(axis=0, initial=-1) > -1]
    return known.mean(axis=1).round(5).tolist() if known.size else []


def _class_curves(evaluator: CocoEvaluator, precision: np.ndarray) -> dict[str, list[float]]:
    curves = precision[0, :, :, 0, -1]
    names, ids = evaluator.categories.names, evaluator.categories.ids
    names = tuple(f"{n} ({id})" if names.count(n) > 1 else n for n, id in zip(names, ids, strict=True))
    return {name: curves[:, k].round(5).tolist() for k, name in enumerate(names) if curves[:, k].max() > -1}


def true_positives(evaluation: Evaluation, results: list[dict[str, Any]]) -> np.ndarray:
    """Return (n,) int64: 1 if a detection is a true positive at IoU 0.5, 0 if false, -1 if ignored."""
    diagnostics = evaluation.image_diagnostics()
    values = {"tp": 1, "fp": 0}
    # hotcoco numbers the detections from 1, in their order.
    return np.array([values.get(diagnostics["dt_status"].get(k + 1), -1) for k in range(len(results))], dtype=np.int64)


def _best_cut(scores: np.ndarray, statuses: np.ndarray, objects: int) -> dict[str, float]:
    """Return the threshold with the best F1, and its precision, recall and F1; all 0 without a true positive."""
    counted = np.flatnonzero(statuses >= 0)
    order = counted[np.argsort(-scores[counted], kind="stable")]
    right = np.cumsum(statuses[order])
    if not len(order) or not objects or not right[-1]:
        return {"threshold": 0.0, "precision": 0.0, "recall": 0.0, "F1": 0.0}
    # A threshold keeps all detections of one score or none.
    last = np.append(np.diff(scores[order]) != 0, True)
    total = np.arange(1, len(order) + 1)
    F1 = np.where(last, 2 * right / (total + objects), -1)
    best = int(F1.argmax())
    precision, recall = right[best] / total[best], right[best] / objects
    point = {"threshold": scores[order[best]], "precision": precision, "recall": recall, "F1": F1[best]}
    return {name: float(value) for name, value in point.items()}


def _calibration(results: list[dict[str, Any]], statuses: np.ndarray, number: int = 10) -> dict[str, Any]:
    """Return the precision at IoU 0.5 in bins of the score, and the expected calibration error."""
    scores = np.array([result["score"] for result in results], dtype=np.float64)
    scores, right = scores[statuses >= 0], statuses[statuses >= 0]
    places = np.clip((scores * number).astype(int), 0, number - 1)
    bins, error = [], 0.0
    for k in range(number):
        inside = places == k
        if count := int(inside.sum()):
            score, share = float(scores[inside].mean()), float(right[inside].mean())
            bins.append({"from": k / number, "to": (k + 1) / number, "score": score, "right": share, "count": count})
            error += count * abs(score - share) / len(scores)
    return {"error": error if len(scores) else float("nan"), "bins": bins}


def _by_crowding(evaluation: Evaluation, truth: dict[str, Any]) -> list[dict[str, Any]]:
    objects = Counter(a["image_id"] for a in truth["annotations"] if is_scored(a))
    rows = []
    for low, high in CROWDS:
        ids = [image["id"] for image in truth["images"] if low <= objects[image["id"]] <= high]
        if ids:
            label = str(low) if low == high else f"{low} or more" if high >= 10**9 else f"{low} to {high}"
            numbers = {name: _number(value) for name, value in evaluation.of_images(ids).items()}
            rows.append({"objects": label, "images": len(ids), **numbers})
    return rows


def _by_image(summary: dict[int, dict[str, Any]], truth: dict[str, Any]) -> list[ImageRow]:
    rows = []
    for image in truth["images"]:
        counts = summary.get(image["id"], {"tp": 0, "fp": 0, "fn": 0})
        found, wrong, missed = (int(counts[key]) for key in ("tp", "fp", "fn"))
        F1 = 2 * found / (2 * found + wrong + missed) if found + wrong + missed else 1.0
        name = str(image.get("file_name", image["id"]))
        rows.append(ImageRow(image["id"], name, found + missed, found, missed, wrong, F1))
    return sorted(rows, key=lambda row: (row.F1, -row.missed - row.wrong, row.image_id))


def _suspects(
    entries: list[dict[str, Any]], truth: dict[str, Any], shown: list[dict[str, Any]], most: int = 50
) -> list[Suspect]:
    names = {image["id"]: str(image.get("file_name", image["id"])) for image in truth["images"]}
    kinds = {"wrong_label": "another class is annotated", "missing_annotation": "nothing is annotated"}
    suspects = []
    for entry in entries:
        box = box_of(shown[entry["dt_id"] - 1])
        suspects.append(
            Suspect(
                image_id=entry["image_id"],
                file_name=names[entry["image_id"]],
                kind=kinds.get(entry["type"], entry["type"]),
                score=float(entry["dt_score"]),
                detected=entry["dt_category"],
                annotated=entry.get("gt_category") or "",
                iou=float(entry.get("iou") or 0.0),
                box=[float(value) for value in box],
            )
        )
    return sorted(suspects, key=lambda suspect: -suspect.score)[:most]


def _number(value: float) -> float:
    return float("nan") if value == -1 else float(value)
