"""Images with one class each: class folders, a CSV file, or the objects of a COCO file.

:mod:`detection.data.multi_labelled` lists images with several classes each.

n images or crops   K classes
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detection.coco.annotations import Annotations, Names
from detection.data.names import advice, image_path
from detection.data.signatures import SUFFIXES
from detection.documents import read_text
from detection.foreign import shown
from detection.wording import plural

LARGEST_CSV = 1 << 30
"""Bytes of a CSV file at most."""
COLUMNS = ("file", "label")
"""Columns that a CSV file must have; it may have others."""


@dataclass(frozen=True)
class LabelledImages:
    """Files with the label of each image or crop, in one buffer each, which worker processes share."""

    source: Path
    """Folder or file that lists the images."""
    folder: Path
    """Folder to which the file names are relative."""
    classes: tuple[str, ...]
    """Names by label."""
    files: Names
    labels: np.ndarray
    """(n,) int64. With several classes per image: (n, K) bool, whether an image has a class."""
    crops: np.ndarray | None = None
    """(n, 4) int64 XYXY regions in pixels; None: whole images."""
    sizes: np.ndarray | None = None
    """(n, 2) int64 height, width of the images of crops, which decide whether EXIF applies; None: whole images."""
    left_out: tuple[tuple[str, int], ...] = ()
    """Reasons why objects of a COCO file have no crop, with the number of objects."""

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folder / self.files[index]

    def counts(self) -> np.ndarray:
        """Return the number of images of each class, (K,)."""
        return self.labels.sum(axis=0) if self.multi_label else np.bincount(self.labels, minlength=len(self.classes))

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.labels.ndim == 2

    def only(self, indices: np.ndarray) -> "LabelledImages":
        """Return some of the images, in the order of the indices."""
        files = Names([self.files[int(index)] for index in indices])
        crops, sizes = (None if values is None else values[indices] for values in (self.crops, self.sizes))
        return replace(self, files=files, labels=self.labels[indices], crops=crops, sizes=sizes)

    def described(self, name: str) -> list[str]:
        """Return lines to print: the numbers of images and classes, what was left out, and classes without images.

        Args:
            name: name of the split.
        """
        unit = "image" if self.crops is None else "crop"
        classes = f", {plural(len(self.classes), 'class')}" if self.classes else ""  # no classes: no labels
        lines = [f"{name}: {plural(len(self), unit)}{classes}, {self.source}"]
        if self.multi_label:
            empty = int((~self.labels.any(axis=1)).sum())
            mean = self.labels.sum() / len(self)
            lines.append(f"  classes per image: {mean:.2f}; {plural(empty, 'image')} without any")
        lines += [f"  left out: {plural(count, 'object')}, {reason}" for reason, count in self.left_out]
        absent = [shown(self.classes[label], 40) for label in np.flatnonzero(self.counts() == 0)]
        if absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            lines.append(f"  without images: {plural(len(absent), 'class')}: {', '.join(absent[:5])}{more}")
        return lines


def from_folders(folder: Path) -> LabelledImages:
    """List the images of class folders, ``folder/CLASS/**``; the classes are in alphabetical order.

    Raises:
        ValueError: the folder does not exist, or has no class folders, or one of them has no images.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder with one folder of images for each class")
    classes = tuple(sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")))
    if not classes:
        raise ValueError(f"{folder}: has no folders; make one for each class, and put its images there")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = images_below(folder / name)
        if not found:
            raise ValueError(f"{folder / name}: has no images; add images of this class, or remove the folder")
        files += [path.relative_to(folder).as_posix() for path in found]
        labels += [label] * len(found)
    return LabelledImages(folder, folder, classes, Names(files), np.asarray(labels, dtype=np.int64))


def images_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and its folders, in alphabetical order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def from_csv(path: Path, folder: Path) -> LabelledImages:
    """Read a CSV file with the columns ``file`` and ``label``; the classes are in alphabetical order.

    Args:
        path: the CSV file.
        folder: folder to which its file names are relative.

    Raises:
        ValueError: the file cannot be read, lacks a column or a value, or names an image that does not exist.
    """
    columns, rows = table_of(path)
    if lacking := [name for name in COLUMNS if name not in columns]:
        raise ValueError(
            f"{path}: has no column {' and no column '.join(lacking)}; the first line must be file,label. For images "
            "with several classes, set data.multi_label"
        )
    found: list[tuple[str, str]] = []
    for line, row in rows:
        name, label = (row[column] for column in COLUMNS)
        if not name or not label:
            raise ValueError(f"{path}: line {line} lacks a file or a label; add it, or remove the line")
        found.append((existing(folder, name, f"{path}: line {line}"), label))
    if not found:
        raise ValueError(f"{path}: lists no images; add a line for each image")
    twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if twice:
        raise ValueError(
            f"{path}: lists {shown(twice[0], 80)} more than once; keep one line for each image. For images with "
            "several classes, set data.multi_label"
        )
    classes = tuple(sorted({label for _, label in found}))
    numbers = {name: label for label, name in enumerate(classes)}
    labels = np.asarray([numbers[label] for _, label in found], dtype=np.int64)
    return LabelledImages(path, folder, classes, Names([name for name, _ in found]), labels)


def table_of(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Read a CSV file, and return its columns and, for each row, its line number and its cells by column.

    Raises:
        ValueError: the file cannot be read.
    """
    reader = csv.DictReader(read_text(path, LARGEST_CSV).lstrip("\ufeff").splitlines())
    columns = list(reader.fieldnames or ())
    rows = ((reader.line_num, {name: (row[name] or "").strip() for name in columns}) for row in reader)
    return columns, rows


def from_coco(annotations: Annotations, folder: Path, margin: float, smallest: int) -> LabelledImages:
    """Make a crop of each object of a COCO file; the labels are those of its categories.

    Args:
        annotations: annotations of the file.
        folder: folder of the images.
        margin: pixels to add on each side, as a fraction of the side of the box.
        smallest: sides of a box in pixels, below which its object has no crop.

    Raises:
        ValueError: an image does not exist, or no object is left.
    """
    crowds = small = 0
    files: list[str] = []
    labels: list[np.ndarray] = []
    crops: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    for index in range(len(annotations)):
        boxes, crowd = annotations.boxes(index).astype(np.float64), annotations.crowd(index)
        sides = boxes[:, 2:] - boxes[:, :2]
        large = (sides >= smallest).all(axis=1)
        keep = large & ~crowd
        crowds, small = crowds + int(crowd.sum()), small + int((~large & ~crowd).sum())
        height, width = annotations.sizes[index]
        around = np.concatenate([-margin * sides, margin * sides], axis=1)
        grown = np.clip(boxes + around, 0, [width, height, width, height])[keep]
        crops.append(np.concatenate([np.floor(grown[:, :2]), np.ceil(grown[:, 2:])], axis=1).astype(np.int64))
        labels.append(annotations.labels(index)[keep])
        sizes.append(np.tile(annotations.sizes[index], (int(keep.sum()), 1)))
        if keep.any():
            files += [existing(folder, annotations.file_name(index), annotations.path)] * int(keep.sum())
    if not files:
        least = plural(smallest, "pixel")
        raise ValueError(f"{annotations.path}: has no object with sides of {least} or more; lower data.crops.smallest")
    left_out = (("crowds", crowds), (f"a side below {plural(smallest, 'pixel')}", small))
    return LabelledImages(
        annotations.path,
        folder,
        annotations.categories.names,
        Names(files),
        np.concatenate(labels).astype(np.int64),
        np.concatenate(crops),
        np.concatenate(sizes),
        tuple((reason, count) for reason, count in left_out if count),
    )


def split(images: LabelledImages, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Split images at random into those for training and those for validation, with the same fraction of each class.

    All crops of an image are in the same part; their fractions are therefore approximate. A class keeps at least one
    image for training. For images with several classes, the rarest class is split first.

    Args:
        fraction: fraction of the images for validation.
        seed: seed of the random choice.
    """
    generator, chosen = np.random.default_rng(seed), np.zeros(len(images), dtype=bool)
    if images.crops is not None:
        _, photos = np.unique([images.files[index] for index in range(len(images))], return_inverse=True)
        picked = generator.permutation(photos.max() + 1)[: round(fraction * (photos.max() + 1))]
        chosen = np.isin(photos, picked)
    elif images.multi_label:
        waiting = np.ones(len(images), dtype=bool)
        for label in [*np.argsort(images.counts(), kind="stable"), None]:  # None: images without classes
            own = generator.permutation(np.flatnonzero(waiting if label is None else waiting & images.labels[:, label]))
            chosen[own[: min(round(fraction * len(own)), max(0, len(own) - 1))]] = True
            waiting[own] = False
    else:
        for label in range(len(images.classes)):
            own = generator.permutation(np.flatnonzero(images.labels == label))
            chosen[own[: min(round(fraction * len(own)), max(0, len(own) - 1))]] = True
    return images.only(np.flatnonzero(~chosen)), replace(images.only(np.flatnonzero(chosen)), left_out=())


def with_classes(images: LabelledImages, classes: Sequence[str]) -> LabelledImages:
    """Return images with the labels of other data, such as those of training.

    Raises:
        ValueError: the other data lack a class of these images.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    used = [images.classes[label] for label in np.flatnonzero(images.counts())]
    if unknown := [name for name in used if name not in numbers]:
        raise ValueError(
            f"{images.source}: has the class {shown(unknown[0], 80)}, which training does not have; correct the name, "
            "or remove its images"
        )
    if images.multi_label:
        labels = np.zeros((len(images), len(classes)), dtype=bool)
        for label, name in enumerate(images.classes):
            if name in numbers:
                labels[:, numbers[name]] = images.labels[:, label]
        return replace(images, classes=tuple(classes), labels=labels)
    new = np.asarray([numbers.get(name, -1) for name in images.classes], dtype=np.int64)
    return replace(images, classes=tuple(classes), labels=new[images.labels])


def existing(folder: Path, name: str, listed: str | Path) -> str:
    """Return the name of the file in a folder that a listed name means; see :mod:`detection.data.names`.

    Raises:
        ValueError: no file has this name.
    """
    there = image_path(folder, name)
    if there is None:
        raise ValueError(f"{listed}: no file {shown(name, 80)} in {folder}; {advice(folder, name)}")
    return there.relative_to(folder).as_posix()
