"""Classify images: the classes of highest score, in Python and as a CSV file for ``rcnn predict``.

K classes   k classes of an image that are kept
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.classifiers import Classifier
from detection.checkpoint_files import replacing
from detection.classifier_files import load_classifier
from detection.data.errors import first_line
from detection.data.image import read_image, to_depth
from detection.data.labelled_dataset import centre_square
from detection.device import inference_device
from detection.foreign import printable, shown
from detection.home import with_home
from detection.inference.sources import sources
from detection.wording import plural

TOP = 5
"""Number of classes of an image by default."""
TABLE = "predictions.csv"
FOR_DETECTORS = ("score", "classes", "tile", "flip", "short_sides", "frames", "across_classes", "size")
"""Options of ``rcnn predict`` that a classifier does not have."""

Image = str | Path | np.ndarray | Tensor
"""A file path; an (H, W, 3) uint8 or uint16 array; or a (3, H, W) uint8 or uint16 tensor, RGB."""


@dataclass(frozen=True)
class Classification:
    """The classes of highest score of an image, the highest first."""

    labels: np.ndarray
    """(k,) int64."""
    scores: np.ndarray
    """(k,) float32, probabilities by softmax over all classes."""
    names: tuple[str, ...]
    """Class names; the labels as text if the classifier does not know them."""


@torch.inference_mode()
def classify(model: Classifier, images: Sequence[Image], top: int = TOP) -> list[Classification]:
    """Return the classes of highest score of each image.

    Args:
        model: the classifier. It runs in evaluation mode; its previous mode is restored afterwards.
        images: images of any size.
        top: number of classes of an image; at most K.

    Raises:
        ValueError: an image cannot be read or has the wrong shape or dtype, or ``top`` is below 1.

    Example:
        >>> [found] = classify(load_classifier("runs/flowers"), ["a.jpg"], top=3)  # doctest: +SKIP
        >>> found.names  # doctest: +SKIP
        ('daisy', 'rose', 'tulip')
    """
    if top < 1:
        raise ValueError(f"top is {top}; it must be at least 1")
    if not images:
        return []
    made, trains = model.preprocessing, model.training
    square = centre_square(made.crop, made.resize, made.interpolation)
    batch = torch.stack([square(_tensor(image)) for image in images]).to(model.mean.device)
    try:
        scores = model.eval()(batch).float().softmax(dim=1)
    finally:
        model.train(trains)
    best = scores.topk(min(top, scores.shape[1]), dim=1)
    return [_classification(model, *row) for row in zip(best.indices.cpu(), best.values.cpu(), strict=True)]


def classify_files(options: argparse.Namespace, failed: list[str]) -> dict[str, Any]:
    """Classify files and folders, write ``predictions.csv``, print a summary, and return it as numbers.

    Args:
        options: options of ``rcnn predict``.
        failed: list that gets a line about images that cannot be read.

    Raises:
        ValueError: an option is wrong.
    """
    if given := [name for name in FOR_DETECTORS if getattr(options, name)]:
        raise ValueError(f"--{given[0].replace('_', '-')}: {options.model} is a classifier, which has no such option")
    top = TOP if options.top is None else options.top
    if top < 1 or options.batch < 1:
        raise ValueError(f"--top {top} and --batch {options.batch} must be at least 1")
    model = load_classifier(options.model, inference_device(options.device))
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
        rows += zip(named, classify(model, images, top), strict=True)
    path = Path(options.output) / TABLE
    _write(path, rows, min(top, model.num_classes))
    counts = Counter(one.names[0] for _, one in rows)
    print(f"{plural(len(rows), 'image')}: {path}")
    print("\n".join(f"  {shown(name, 40)}: {count}" for name, count in counts.most_common(20)))
    if left_out:
        print(f"skipped {plural(len(left_out), 'other file')}, for example {shown(left_out[0], None)}")
    if unread:
        failed.append(f"could not read {plural(len(unread), 'image')}:\n  " + "\n  ".join(map(printable, unread)))
    return {"images": len(rows), "classes": dict(counts), "files": [str(path)], "unread": unread}


def _write(path: Path, rows: Sequence[tuple[str, Classification]], top: int) -> None:
    """Write a line for each image: its file, and the class and score of each rank."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", *(f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "score"))])
    for name, one in rows:
        cells = [cell for pair in zip(one.names, one.scores.tolist(), strict=True) for cell in pair]
        writer.writerow([name, *(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(table.getvalue().encode())


def _classification(model: Classifier, labels: Tensor, scores: Tensor) -> Classification:
    names = tuple(str(label) if model.names is None else model.names[label] for label in labels.tolist())
    return Classification(labels.numpy(), scores.numpy(), names)


def _tensor(image: Image) -> Tensor:
    """Return an image as a tensor (3, H, W) uint8."""
    if isinstance(image, str | Path):
        image = read_image(Path(with_home(image)))
    array = image.detach().cpu().permute(1, 2, 0).numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"image: expected RGB, an array (H, W, 3) or a tensor (3, H, W), got {tuple(image.shape)} {image.dtype}"
        )
    return torch.from_numpy(np.ascontiguousarray(to_depth(array, 8))).permute(2, 0, 1)
