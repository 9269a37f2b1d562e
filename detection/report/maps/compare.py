"""Compare the maps of two evaluations of the same images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.documents import read_json
from detection.report.compare import Difference, check_comparable
from detection.report.maps.counts import Counts, read_counts

NAME = "maps.json"


def has_maps(folder: Path) -> bool:
    """Return whether a folder has an evaluation of maps."""
    return (folder / NAME).is_file()


def compare_maps(folders: Sequence[Path], resamplings: int = 1000, seed: int = 0) -> dict[str, list[Difference]]:
    """Return the differences of all numbers of two evaluations of maps, and of each class.

    Args:
        folders: two folders that ``rcnn evaluate`` wrote.
        resamplings: number of bootstrap samples of the images, for the intervals.
        seed: seed of the samples.

    Raises:
        ValueError: the evaluations are not comparable, and the message says why; or a file is missing or damaged.
    """
    reports = [read_maps(folder) for folder in folders]
    check_comparable(*(report["about"] for report in reports))
    first, second = (counts_in(*pair) for pair in zip(folders, reports, strict=True))
    found: dict[str, list[Difference]] = {}
    for kind in (kind for kind in first.kinds() if kind in second.kinds()):
        names = [[str(row["name"]) for row in report[kind]["classes"]] for report in reports]
        if names[0] != names[1]:
            raise ValueError(f"{folders[0]}, {folders[1]}: have other {kind} classes; evaluate both on the same data")
        before, after = first.values(kind), second.values(kind)
        samples = zip(first.samples(kind, resamplings, seed), second.samples(kind, resamplings, seed), strict=True)
        low, high = _interval(np.array([two - one for one, two in samples]).reshape(-1, len(before)))
        titles = list(first.numbers(kind, np.ones(len(first))))
        columns = (values.tolist() for values in (before, after, low, high))
        rows = [Difference(*row) for row in zip([*titles, *names[0]], *columns, strict=True)]
        classes = [one for one in rows[len(titles) :] if not np.isnan(one.first) or not np.isnan(one.second)]
        found |= {f"{kind}/numbers": rows[: len(titles)], f"{kind}/classes": classes}
    return found


def read_maps(folder: Path) -> dict[str, Any]:
    """Read the report of maps of an evaluation.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = folder / NAME
    try:
        report = read_json(path)
        return {**report, "about": dict(report["about"]), "semantic": dict(report["semantic"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: has no evaluation of maps ({error}); run rcnn evaluate with this model") from error


def counts_in(folder: Path, report: Mapping[str, Any]) -> Counts:
    """Read the counts of an evaluation.

    Raises:
        ValueError: a file is missing or damaged.
    """
    try:
        classes = len(report["semantic"]["classes"])
        segments = len(report["panoptic"]["classes"]) if "panoptic" in report else 0
        ids, things = [int(one) for one in report["image_ids"]], int(report["things"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / NAME}: is damaged; run rcnn evaluate again") from error
    return read_counts(folder, ids, classes, segments, things)


def _interval(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95% interval of each column of (R, N); NaN where more than 1 % of the samples have no value."""
    low, high = (np.full(changes.shape[1], np.nan) for _ in range(2))
    known = np.isfinite(changes).mean(axis=0) >= 0.99 if len(changes) > 1 else np.zeros(changes.shape[1], dtype=bool)
    low[known], high[known] = np.nanpercentile(changes[:, known], (2.5, 97.5), axis=0)
    return low, high
