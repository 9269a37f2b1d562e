"""Compare two evaluations of the same images, whatever they scored: objects, maps, or classes of images."""

from dataclasses import dataclass
from pathlib import Path

from detection.report.classification.compare import compare_classifiers, is_of_classifier
from detection.report.compare import Difference, compare, read_report
from detection.report.maps.compare import compare_maps, has_maps


@dataclass(frozen=True)
class Comparison:
    """Differences of all numbers of two evaluations."""

    differences: dict[str, list[Difference]]
    """By kind, such as ``bbox/numbers`` and ``semantic/classes``."""
    numbers: str
    """What the numbers are, for a title."""
    has_objects: bool
    """Whether both evaluations scored objects."""


def compare_evaluations(
    first: Path, second: Path, annotations: Path | None = None, resamplings: int = 1000
) -> Comparison:
    """Return the differences of all that two evaluations scored.

    Args:
        first: folder that ``rcnn evaluate`` wrote.
        second: another such folder.
        annotations: path of the annotation file, if it was moved.
        resamplings: number of bootstrap samples of the images, for the intervals.

    Raises:
        ValueError: the evaluations are not comparable, and the message says why; or a file is missing or damaged.
    """
    folders = [first, second]
    maps = compare_maps(folders, resamplings) if all(map(has_maps, folders)) else {}
    if maps and not all((folder / "report.json").is_file() for folder in folders):
        return Comparison(maps, "scores", False)
    reports = [read_report(folder) for folder in folders]
    if any(map(is_of_classifier, reports)):
        return Comparison(compare_classifiers(folders, reports, resamplings) | maps, "scores", False)
    found = compare(first, second, annotations, resamplings)
    return Comparison(found | maps, "scores" if maps else "AP and AR", True)
