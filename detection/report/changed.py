"""Find the images whose result changed most between two evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.report.analysis import KINDS
from detection.report.compare import evaluator_of, read_report
from detection.report.pictures import Picture, Pictures


@dataclass(frozen=True)
class ChangedImage:
    """An image in two evaluations."""

    image_id: int
    file_name: str
    first: float
    """F1 at the score threshold that the evaluation recommends."""
    second: float
    images: tuple[Picture, Picture] | None = None
    """Both results, if the image can be read."""


def changed_images(
    first: Path, second: Path, annotations: Path | None = None, images: Path | None = None, most: int = 10
) -> list[ChangedImage]:
    """Find the images with the largest change of F1: of masks if both evaluations have them, else of boxes.

    Args:
        first: folder that ``rcnn evaluate`` wrote.
        second: another such folder, of the same images.
        annotations: path of the annotation file, if it was moved.
        images: folder of the images; None: the folder that the evaluations used.
        most: number of images.
    """
    reports = [read_report(folder) for folder in (first, second)]
    kinds = [kind for kind in KINDS if all(kind in report for report in reports)]
    if not kinds:
        return []
    kind = kinds[-1]
    before, after = ({row["image_id"]: row for row in report[kind]["by_image"]} for report in reports)
    changed = [
        ChangedImage(id, str(row["file_name"]), row["F1"], after[id]["F1"]) for id, row in before.items() if id in after
    ]
    changed = [one for one in changed if one.first != one.second]
    changed = sorted(changed, key=lambda one: (-abs(one.second - one.first), one.image_id))[:most]
    folder = images or _folder(reports)
    if folder is None or not changed:
        return changed
    about = reports[0]["about"]
    path = annotations or Path(about["annotations"])
    draw = [
        Pictures(evaluator_of(place, about, kind, path), folder, kind, _threshold(report, kind))
        for place, report in zip((first, second), reports, strict=True)
    ]
    return [_with_images(one, draw) for one in changed]


def _with_images(one: ChangedImage, draw: list[Pictures]) -> ChangedImage:
    first, second = (pictures.outcome(one.image_id, one.file_name) for pictures in draw)
    both = (first, second) if first and second else None
    return ChangedImage(one.image_id, one.file_name, one.first, one.second, both)


def _threshold(report: Mapping[str, Any], kind: str) -> float:
    return float(report[kind]["operating_point"]["threshold"])


def _folder(reports: list[dict[str, Any]]) -> Path | None:
    """Return the first image folder of the evaluations that still exists; None if there is none."""
    named = [Path(report["about"]["images"]) for report in reports if report["about"].get("images")]
    return next((folder for folder in named if folder.is_dir()), None)
