"""Compare two evaluations of classifiers on the same images."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.documents import read_text
from detection.evaluation.class_samples import Judged, OneClass, SeveralClasses, draws
from detection.foreign import cell, shown
from detection.report.classification.content import PREDICTIONS, SCORES, TRUTH
from detection.report.classification.page import TITLES
from detection.report.compare import Difference, check_comparable
from detection.wording import plural

KEY = "classification"
"""Part of ``report.json`` that the evaluation of a classifier has."""
LARGEST = 1 << 31
"""Bytes of a table at most."""


def is_of_classifier(report: Mapping[str, Any]) -> bool:
    """Return whether a report is of a classifier."""
    return isinstance(report.get(KEY), Mapping)


def compare_classifiers(
    folders: Sequence[Path], reports: Sequence[Mapping[str, Any]], resamplings: int = 1000, seed: int = 0
) -> dict[str, list[Difference]]:
    """Return the differences of all numbers, and of each class.

    Args:
        folders: two folders that ``rcnn evaluate`` wrote.
        reports: their reports.
        resamplings: number of bootstrap samples of the images, for the intervals.
        seed: seed of the samples.

    Raises:
        ValueError: the evaluations are not comparable, and the message says why; or a file is missing or damaged.
    """
    if not all(map(is_of_classifier, reports)):
        raise ValueError(f"{folders[0]}, {folders[1]}: one is of a classifier, the other of a detector")
    check_comparable(*(report["about"] for report in reports))
    names = [str(row["name"]) for row in reports[0][KEY]["classes"]]
    first, second = (read_judged(*pair) for pair in zip(folders, reports, strict=True))
    if len(first) != len(second):
        raise ValueError(
            f"{folders[0]} has {plural(len(first), 'image')}, {folders[1]} {len(second)}; evaluate both again"
        )
    ones = np.ones(len(first))
    before, after = _values(first, ones), _values(second, ones)
    changes = [_values(second, weights) - _values(first, weights) for weights in draws(len(first), resamplings, seed)]
    low, high = _interval(np.array(changes).reshape(len(changes), len(before)))
    titles = [TITLES[name][0] for name in first.numbers(ones)]
    rows = zip([*titles, *names], *(values.tolist() for values in (before, after, low, high)), strict=True)
    found = [Difference(*row) for row in rows]
    classes = [one for one in found[len(titles) :] if not np.isnan(one.first)]
    return {f"{KEY}/numbers": found[: len(titles)], f"{KEY}/classes": classes}


def read_judged(folder: Path, report: Mapping[str, Any]) -> Judged:
    """Read the true and the predicted classes of an evaluation.

    Raises:
        ValueError: a file is missing or damaged.
    """
    classes = len(report[KEY]["classes"])
    if "confusion" not in report[KEY]:
        scores, truth = (_table(folder / name, classes) for name in (SCORES, TRUTH))
        if scores.shape != truth.shape:
            raise ValueError(f"{folder}: {SCORES} and {TRUTH} have other images; run rcnn evaluate again")
        return SeveralClasses(truth > 0.5, scores)
    rows = _rows(folder / PREDICTIONS)
    names = {cell(row["name"]): label for label, row in reversed(list(enumerate(report[KEY]["classes"])))}
    try:
        labels = np.array([names[row[1]] for row in rows], dtype=np.int64)
        ranks = np.array([int(row[5]) for row in rows], dtype=np.int64)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{folder / PREDICTIONS}: is damaged ({shown(error, 80)}); run rcnn evaluate again") from error
    return OneClass(labels, ranks, classes)


def _values(judged: Judged, weights: np.ndarray) -> np.ndarray:
    """Return the numbers, then the scores of the classes."""
    return np.array([*judged.numbers(weights).values(), *judged.per_class(weights)])


def _interval(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of each column of (R, N); NaN where more than 1 % of the samples have no value."""
    low, high = (np.full(changes.shape[1], np.nan) for _ in range(2))
    known = np.isfinite(changes).mean(axis=0) >= 0.99 if len(changes) > 1 else np.zeros(changes.shape[1], dtype=bool)
    low[known], high[known] = np.nanpercentile(changes[:, known], (2.5, 97.5), axis=0)
    return low, high


def _table(path: Path, classes: int) -> np.ndarray:
    """Return the numbers (n, K) of a table, without its first column."""
    try:
        return np.array([[float(cell) for cell in row[1:]] for row in _rows(path)]).reshape(-1, classes)
    except ValueError as error:
        raise ValueError(f"{path}: is damaged ({shown(error, 80)}); run rcnn evaluate again") from error


def _rows(path: Path) -> list[list[str]]:
    """Return the rows of a table, without its head."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run rcnn evaluate again")
    return list(csv.reader(read_text(path, LARGEST).splitlines()))[1:]
