"""Classify files and folders, and write a CSV file; ``rcnn predict`` calls this module for a classifier.

The file of a multi-label classifier has the form in which a training reads it, and the scores.
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones.classifiers import Classifier
from detection.checkpoint_files import replacing
from detection.data.errors import first_line
from detection.data.image import read_image
from detection.foreign import printable, shown
from detection.inference.classify import SCORE, TOP, Classification, Image, classify
from detection.inference.sources import sources
from detection.inference.thresholds import per_class, read_thresholds
from detection.wording import plural

TABLE = "predictions.csv"
FOR_DETECTORS = ("classes", "tile", "flip", "short_sides", "frames", "across_classes", "size")
"""Options of ``rcnn predict`` that a classifier does not have."""
SEPARATOR = ";"
"""Text between the classes of an image."""


def classify_files(model: Classifier, options: argparse.Namespace, failed: list[str]) -> dict[str, Any]:
    """Classify files and folders, write ``predictions.csv``, print a summary, and return it as numbers.

    Args:
        model: the classifier.
        options: options of ``rcnn predict``.
        failed: list that gets a line about images that cannot be read.

    Raises:
        ValueError: an option is wrong.
    """
    if given := [name for name in FOR_DETECTORS if getattr(options, name)]:
        raise ValueError(f"--{given[0].replace('_', '-')}: {options.model} is a classifier, which has no such option")
    if options.precision != "fp32":
        raise ValueError("--precision: a classifier predicts in fp32; leave it out")
    if (options.top is not None and options.top < 1) or options.batch < 1:
        raise ValueError(f"--top {options.top} and --batch {options.batch} must be at least 1")
    limits = _limits(options, model)
    left_out: list[Path] = []
    found = sources(options.images, left_out)
    if videos := [source for source in found if source.kind != "image"]:
        raise ValueError(f"{videos[0].path}: is a {videos[0].kind}; a classifier takes images")
    rows: list[tuple[str, Classification]] = []
    unread: list[str] = []
    for start in range(0, len(found), options.batch):
        named: list[str] = []
        images: list[Image] = []
        for source in found[start : start + options.batch]:
            try:
                images.append(read_image(source.path))
                named.append(source.name)
            except ValueError as error:
                unread.append(first_line(error))
        rows += zip(named, classify(model, images, options.top, limits), strict=True)
    path = Path(options.output) / TABLE
    if model.multi_label:
        _write_several(path, rows)
        counts = Counter(name for _, one in rows for name in one.names)
    else:
        _write(path, rows, min(options.top or TOP, model.num_classes))
        counts = Counter(one.names[0] for _, one in rows)
    print(f"{plural(len(rows), 'image')}: {path}")
    print("\n".join(f"  {shown(name, 40)}: {count}" for name, count in counts.most_common(20)))
    if left_out:
        print(f"skipped {plural(len(left_out), 'other file')}, for example {shown(left_out[0], None)}")
    if unread:
        failed.append(f"could not read {plural(len(unread), 'image')}:\n  " + "\n  ".join(map(printable, unread)))
    return {"images": len(rows), "classes": dict(counts), "files": [str(path)], "unread": unread}


def _limits(options: argparse.Namespace, model: Classifier) -> Tensor | None:
    """Return the smallest score of each class of a multi-label classifier, (K,) float32; None for others.

    Raises:
        ValueError: ``--score`` does not fit the classifier.
    """
    if not model.multi_label:
        if options.score:
            raise ValueError(f"--score: {options.model} gives an image one class; use --top")
        return None
    if "model" in (options.score or ()):
        raise ValueError(f"--score model: {options.model} holds no thresholds; give a number, or CLASS=NUMBER")
    names = model.names or tuple(map(str, range(model.num_classes)))
    return per_class(read_thresholds(options.score or [f"{SCORE}"], names), names)  # type: ignore[arg-type]


def _write(path: Path, rows: Sequence[tuple[str, Classification]], top: int) -> None:
    """Write a line for each image: its file, and the class and score of each rank."""
    lines = [["file", *(f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "score"))]]
    for name, one in rows:
        cells = [cell for pair in zip(one.names, one.scores.tolist(), strict=True) for cell in pair]
        lines.append([name, *(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells)])
    _write_lines(path, lines)


def _write_several(path: Path, rows: Sequence[tuple[str, Classification]]) -> None:
    """Write a line for each image: its file, its classes, and their scores."""
    lines = [["file", "label", "score"]]
    for name, one in rows:
        scores = (f"{score:.6g}" for score in one.scores.tolist())
        lines.append([name, SEPARATOR.join(one.names), SEPARATOR.join(scores)])
    _write_lines(path, lines)


def _write_lines(path: Path, lines: Sequence[Sequence[str]]) -> None:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(table.getvalue().encode())
