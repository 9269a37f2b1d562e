"""Write the report as files: HTML, JSON, and CSV of classes and images."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from detection.checkpoint_files import replacing
from detection.evaluation.coco import CocoEvaluator
from detection.foreign import LONGEST, cell
from detection.report.analysis import Analysis, ClassRow, ImageRow
from detection.report.earlier import change_since
from detection.report.page import page
from detection.report.pictures import Pictures


def write(
    folder: Path,
    evaluator: CocoEvaluator,
    analyses: Sequence[Analysis],
    about: dict[str, Any],
    images: Path | None = None,
    number: int = 12,
) -> None:
    """Write ``report.html``, ``report.json``, ``classes_*.csv`` and ``images_*.csv`` into a folder.

    Args:
        images: folder of the images; if None, the page shows none.
        number: number of the worst images, and of the annotations to check, that the page shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = about | {"change": change_since(folder / "report.json", about, analyses)}
    beside = ["report.json", *(f"{part}_{a.iou_type}.csv" for part in ("classes", "images") for a in analyses)]
    beside += [f"results_{a.iou_type}.json" for a in analyses if (folder / f"results_{a.iou_type}.json").is_file()]
    write_page(folder / "report.html", evaluator, analyses, about, images, number, beside)
    content = {"about": about, **{analysis.iou_type: asdict(analysis) for analysis in analyses}}
    (folder / "report.json").write_text(json.dumps(plain(content), indent=1), encoding="utf-8")
    for analysis in analyses:
        _write_rows(folder / f"classes_{analysis.iou_type}.csv", ClassRow, analysis.classes)
        _write_rows(folder / f"images_{analysis.iou_type}.csv", ImageRow, analysis.by_image)


def write_page(
    path: Path,
    evaluator: CocoEvaluator,
    analyses: Sequence[Analysis],
    about: Mapping[str, Any],
    images: Path | None = None,
    number: int = 12,
    beside: Sequence[str] = (),
) -> None:
    """Write the page alone, whole or not at all; arguments as for :func:`write`.

    Args:
        beside: files in the page's folder, to which it links.
    """
    last = analyses[-1]
    bad, suspects = [row for row in last.by_image if row.F1 < 1][:number], last.suspects[:number]
    if images is not None and number:
        draw = Pictures(evaluator, images, last.iou_type, last.operating_point["threshold"])
        pairs = [(row, draw.truth_and_prediction(row.image_id, row.file_name)) for row in bad]
        html = page(analyses, about, pairs, [(one, draw.suspect(one)) for one in suspects], beside)
    else:
        html = page(analyses, about, [(row, None) for row in bad], [(one, None) for one in suspects], beside)
    with replacing(path) as file:
        file.write(html.encode())


def _write_rows(path: Path, kind: Any, rows: Sequence[Any]) -> None:
    names = [field.name for field in fields(kind)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        # A file needs its whole name; for a class, the beginning and the end are enough.
        longest = {"file_name": None}
        writer.writerows([cell(getattr(row, name), longest.get(name, LONGEST)) for name in names] for row in rows)


def plain(value: Any) -> Any:
    """Replace NaN and Inf, which JSON does not have, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
