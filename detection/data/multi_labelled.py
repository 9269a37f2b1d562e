"""Images with several classes each, or none: a CSV file, or the images of a COCO file.

n images   K classes
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from detection.coco.annotations import Annotations, Names
from detection.data.labelled import COLUMNS, LabelledImages, existing, table_of
from detection.foreign import shown

FILE, LABEL = COLUMNS


def from_csv_of_several(path: Path, folder: Path, separator: str) -> LabelledImages:
    """Read a CSV file of images with several classes each.

    The file has one of two forms:

    * The columns ``file`` and ``label``. A label names one class, several, or none. A file on several lines has the
      classes of all of them. The classes are in alphabetical order.
    * The column ``file``, and a column of 0 and 1 for each class. The classes are in the order of the columns.

    Args:
        path: the CSV file.
        folder: folder to which its file names are relative.
        separator: text between the classes of a label.

    Raises:
        ValueError: the file cannot be read, lacks a column or a file, has another value than 0 and 1, or names an
            image that does not exist.
    """
    columns, rows = table_of(path)
    if FILE not in columns or len(columns) < 2:
        raise ValueError(f"{path}: the first line must be file,label, or file and a column for each class")
    found: dict[str, set[str]] = {}
    classes = () if LABEL in columns else tuple(name for name in columns if name != FILE)
    for line, row in rows:
        where = f"{path}: line {line}"
        if not row[FILE]:
            raise ValueError(f"{where} lacks a file; add it, or remove the line")
        named = _marked(row, classes, where) if classes else _named(row[LABEL], separator)
        found.setdefault(existing(folder, row[FILE], where), set()).update(named)
    if not found:
        raise ValueError(f"{path}: lists no images; add a line for each image")
    classes = classes or tuple(sorted(set().union(*found.values())))
    if not classes:
        raise ValueError(f"{path}: names no class; write the classes of each image into the column label")
    numbers = {name: label for label, name in enumerate(classes)}
    present = _present(([numbers[name] for name in names] for names in found.values()), (len(found), len(classes)))
    return LabelledImages(path, folder, classes, Names(list(found)), present)


def from_coco_images(annotations: Annotations, folder: Path) -> LabelledImages:
    """Return the whole images of a COCO file with the classes of their objects; those of crowds count.

    Args:
        annotations: annotations of the file.
        folder: folder of the images.

    Raises:
        ValueError: an image does not exist, or the file has none.
    """
    if not len(annotations):
        raise ValueError(f"{annotations.path}: lists no images; add images to it")
    names = annotations.categories.names
    files = [existing(folder, annotations.file_name(index), annotations.path) for index in range(len(annotations))]
    labels = (annotations.labels(index).tolist() for index in range(len(annotations)))
    present = _present(labels, (len(annotations), len(names)))
    return LabelledImages(annotations.path, folder, names, Names(files), present)


def _named(label: str, separator: str) -> set[str]:
    """Return the classes of a label."""
    return {name.strip() for name in label.split(separator)} - {""}


def _marked(row: Mapping[str, str], classes: Iterable[str], where: str) -> set[str]:
    """Return the classes whose column has a 1."""
    for name in classes:
        if row[name] not in ("0", "1"):
            raise ValueError(f"{where}: {shown(name, 40)} is {shown(row[name], 40)}; a column of a class has 0 or 1")
    return {name for name in classes if row[name] == "1"}


def _present(labels: Iterable[Iterable[int]], shape: tuple[int, int]) -> np.ndarray:
    """Return (n, K) bool from the labels of each image."""
    present = np.zeros(shape, dtype=bool)
    for row, own in zip(present, labels, strict=True):
        row[list(own)] = True
    return present
